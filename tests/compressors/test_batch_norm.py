"""Batch norms become part of the layer before them, and their statistics can be re-estimated."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors import batch_norm
from autocompress.compressors.batch_norm import estimate_batch_norm, fold_batch_norm, folded
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


class Shared(nn.Module):
    """A convolution that runs twice, before two batch norms, and a batch norm that runs after two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, 4, H − 4, W − 4)."""
        x = self.two(self.conv(self.one(self.conv(x))))
        y: Tensor = self.norm(self.a(x)) + self.norm(self.b(x))
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
    "shared": (Shared(), IMAGES),
    "norm after ReLU in place": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4)), IMAGES),
    "norm of each batch": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), IMAGES),
}


@pytest.mark.parametrize(("model", "x"), FOLDABLE.values(), ids=FOLDABLE)
def test_folding_keeps_the_outputs(model: nn.Module, x: Tensor) -> None:
    """No batch norm is left, and the network computes what it did."""
    lived_in(model)
    made = fold_batch_norm(model, (x[:1],))
    assert norms(made) == 0
    assert not made.training
    torch.testing.assert_close(made(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("model", "x"), UNFOLDABLE.values(), ids=UNFOLDABLE)
def test_what_cannot_be_folded_stays(model: nn.Module, x: Tensor) -> None:
    """Where a batch norm is not a matter of the layer before it, the network comes back as it is."""
    lived_in(model)
    made = fold_batch_norm(model, (x[:1],))
    assert norms(made) == norms(model)
    torch.testing.assert_close(made(x), model(x), rtol=0, atol=0)
    assert made is not model


def stage() -> nn.Module:
    """Return a convolution, its norm and its activation, for any number of channels."""
    return nn.Sequential(nn.LazyConv2d(4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))


@pytest.mark.parametrize("kind", ["second reader", "norm after ReLU in place", "shared"])
@pytest.mark.parametrize("place", [0, 1, 4])
def test_each_pair_is_folded_for_itself(kind: str, place: int) -> None:
    """One that cannot be folded keeps no other from being folded."""
    stubborn = copy.deepcopy(UNFOLDABLE[kind][0])
    stages = [*(stage() for _ in range(place)), nn.LazyConv2d(3, 1), stubborn, *(stage() for _ in range(4 - place))]
    model = nn.Sequential(*stages)
    model(IMAGES)
    made = fold_batch_norm(lived_in(model), (IMAGES[:1],))
    assert norms(made) == norms(stubborn)
    torch.testing.assert_close(made(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_network_is_folded_as_soon_as_a_norm_is() -> None:
    """And where it never had one; not while all norms are at work."""
    plain, ready = nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert folded(plain)
    assert not folded(ready)
    assert folded(fold_batch_norm(ready, (IMAGES,)))
    assert not folded(fold_batch_norm(lived_in(copy.deepcopy(UNFOLDABLE["second reader"][0])), (IMAGES,)))
    half = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), TwoReaders())
    assert folded(fold_batch_norm(lived_in(half), (IMAGES,)))


def test_a_network_is_copied_once_where_all_norms_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy whose outputs were compared is the one that is returned."""
    made = []
    copied = batch_norm.copied
    monkeypatch.setattr(batch_norm, "copied", lambda model: made.append(copied(model)) or made[-1])
    model, x = FOLDABLE["conv"]
    assert fold_batch_norm(lived_in(copy.deepcopy(model)), (x,)) is made[0]
    assert len(made) == 1


def test_a_frozen_layer_stays_frozen() -> None:
    """The bias that it gets is trained only if its weights are."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in fold_batch_norm(model, (IMAGES,)).parameters())


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


@pytest.mark.parametrize("sizes", [(8, 8, 8), (2, 16, 5), (8, 1, 8)])
def test_statistics_of_several_batches_are_those_of_all_examples(sizes: tuple[int, ...]) -> None:
    """What lies between batches is part of the variance; batches of one are left out, and what was known before."""
    model = lived_in(nn.Sequential(nn.BatchNorm1d(3)))
    batches = [torch.randn(size, 3) + 2 * i for i, size in enumerate(sizes)]
    estimate_batch_norm(model, [(batch,) for batch in batches])
    together = torch.cat([batch for batch in batches if len(batch) > 1])
    torch.testing.assert_close(model[0].running_mean, together.mean(0))
    torch.testing.assert_close(model[0].running_var, together.var(0))


def test_a_norm_that_is_called_twice_counts_both_calls() -> None:
    """And one that is not called keeps what it has."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.norm(x), self.norm(x + 4)])

    model, x = lived_in(Twice()), torch.randn(16, 3)
    before = model.other.running_mean.clone()
    estimate_batch_norm(model, [(x,)])
    both = torch.cat([x, x + 4])
    torch.testing.assert_close(model.norm.running_mean, both.mean(0))
    torch.testing.assert_close(model.norm.running_var, both.var(0))
    torch.testing.assert_close(model.other.running_mean, before, rtol=0, atol=0)


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
