"""Batch norms become part of the layer before them, and their statistics can be estimated anew."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.fold import estimate_batch_norm, fold_batch_norm
from autocompress.studies.residual import ResidualNet


def lived_in(model: nn.Module) -> nn.Module:
    """Return a network in evaluation mode whose batch norms hold something that can be got wrong."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                if value is not None:
                    nn.init.uniform_(value, 0.5, 2.0)
    return model.eval()


def norms(model: nn.Module) -> int:
    """Return the number of batch norms."""
    return sum(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in model.modules())


class TwoReaders(nn.Module):
    """A convolution whose outputs are read by a batch norm and by an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, 4, H − 2, W − 2)."""
        x = self.conv(x)
        y: Tensor = x + self.norm(x)
        return y


IMAGES = torch.randn(4, 3, 8, 8)
FOLDABLE = {
    "conv": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), IMAGES),
    "conv without bias": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), IMAGES),
    "depthwise": (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), IMAGES),
    "linear": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.randn(4, 5)),
    "norm without weights": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), IMAGES),
    "residual": (ResidualNet((4, 8), (1, 1), channels=3), IMAGES),
}
UNFOLDABLE = {
    "second reader": (TwoReaders(), IMAGES),
    "norm first": (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), IMAGES),
    "norm after ReLU": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), IMAGES),
    "norm over positions": (nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(5)), torch.randn(4, 5, 8)),
    "norm over as many positions": (nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5)), torch.randn(4, 5, 8)),
    "norm of each batch": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), IMAGES),
}


@pytest.mark.parametrize(("model", "x"), FOLDABLE.values(), ids=FOLDABLE)
def test_folding_keeps_the_outputs(model: nn.Module, x: Tensor) -> None:
    """No batch norm is left, and the network computes what it did."""
    lived_in(model)
    folded = fold_batch_norm(model, (x[:1],))
    assert norms(folded) == 0
    assert not folded.training
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("model", "x"), UNFOLDABLE.values(), ids=UNFOLDABLE)
def test_what_cannot_be_folded_stays(model: nn.Module, x: Tensor) -> None:
    """Where a batch norm is not a matter of the layer before it, the network comes back as it is."""
    lived_in(model)
    folded = fold_batch_norm(model, (x[:1],))
    assert norms(folded) == norms(model)
    torch.testing.assert_close(folded(x), model(x), rtol=0, atol=0)
    assert folded is not model


def test_folding_leaves_the_network_as_it_was() -> None:
    """The batch norms, weights and mode of the given network stay."""
    model = lived_in(ResidualNet((4, 8), (1, 1), channels=3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fold_batch_norm(model, (IMAGES,))
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_statistics_of_one_batch_are_exact() -> None:
    """After one batch, the running mean and variance are those of that batch."""
    model = lived_in(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    estimate_batch_norm(model, [(IMAGES,)])
    made = model[0](IMAGES).transpose(0, 1).flatten(1)
    torch.testing.assert_close(model[1].running_mean, made.mean(1))
    torch.testing.assert_close(model[1].running_var, made.var(1))


def test_statistics_of_several_batches_are_their_average() -> None:
    """Every batch counts the same, and what was known before does not count."""
    model = lived_in(nn.Sequential(nn.BatchNorm1d(3)))
    batches = [torch.randn(8, 3) + i for i in range(3)]
    estimate_batch_norm(model, [(batch,) for batch in batches])
    torch.testing.assert_close(model[0].running_mean, torch.stack([b.mean(0) for b in batches]).mean(0))
    torch.testing.assert_close(model[0].running_var, torch.stack([b.var(0) for b in batches]).mean(0))


@pytest.mark.parametrize("training", [True, False])
def test_estimating_changes_nothing_else(training: bool) -> None:
    """Weights, momentum and mode stay; dropout does not disturb the statistics."""
    model = lived_in(nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.3))).train(training)
    weights = [value.clone() for value in model.parameters()]
    estimate_batch_norm(model, [(torch.ones(2, 3),)])
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    assert model[2].momentum == 0.3
    assert all(module.training is training for module in model.modules())
    torch.testing.assert_close(model[2].running_mean, model[1](torch.ones(3)))


def test_no_batches_leave_the_statistics() -> None:
    """Without data there is nothing to estimate from."""
    model = lived_in(nn.Sequential(nn.BatchNorm1d(3)))
    before = model[0].running_mean.clone()
    estimate_batch_norm(model, [])
    assert torch.equal(model[0].running_mean, before)
