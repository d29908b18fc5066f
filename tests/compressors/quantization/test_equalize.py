"""Channels between layers are scaled, and the network computes what it did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.modules import LAYERS, run
from autocompress.compressors.quantization.equalize import equalize
from autocompress.compressors.quantization.joints import joints
from autocompress.compressors.technique import Supplies

IMAGES = torch.randn(24, 4, 10, 10, generator=torch.Generator().manual_seed(3))
TOKENS = torch.randn(24, 6, 16, generator=torch.Generator().manual_seed(4))


class Net(nn.Module):
    """Layers joined by a function of theirs."""

    def __init__(self, join: Callable[[Net, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.join = join
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Join the layers."""
        return self.join(self, x)


def convolutions() -> dict[str, nn.Module]:
    """Return convolutions of uneven channels: one, a depthwise one, one, and a head."""
    torch.manual_seed(0)
    layers = {
        "first": nn.Conv2d(4, 12, 1),
        "depthwise": nn.Conv2d(12, 12, 3, padding=1, groups=12),
        "last": nn.Conv2d(12, 4, 1),
        "head": nn.Linear(4, 5),
    }
    with torch.no_grad():
        for layer in (layers["first"], layers["depthwise"]):
            layer.weight.mul_(torch.logspace(-1.5, 0.3, 12).reshape(-1, 1, 1, 1))  # type: ignore[operator]
            layer.bias.mul_(torch.logspace(-1.5, 0.3, 12))  # type: ignore[operator]
    return layers


def uneven_norm() -> nn.LayerNorm:
    """Return a norm whose channels are of different sizes."""
    norm = nn.LayerNorm(16)
    with torch.no_grad():
        norm.weight.copy_(torch.logspace(-1.5, 1, 16))
    return norm


FORMS: dict[str, tuple[Callable[[Net, Tensor], Tensor], Callable[[], dict[str, nn.Module]], Tensor, set[str]]] = {
    "relu6": (
        lambda n, x: n.head(n.last(functional.relu6(n.depthwise(functional.relu6(n.first(x))))).mean((2, 3))),
        convolutions,
        IMAGES,
        {"first", "depthwise", "last"},
    ),
    "pools": (
        lambda n, x: n.head(n.last(functional.max_pool2d(n.depthwise(n.first(x).relu()), 2)).mean((2, 3))),
        convolutions,
        IMAGES,
        {"first", "depthwise", "last"},
    ),
    "residual": (
        lambda n, x: n.head(n.last((y := torch.relu(n.first(x))) + torch.relu(n.depthwise(y))).mean((2, 3))),
        convolutions,
        IMAGES,
        {"first", "depthwise", "last"},
    ),
    "norm": (
        lambda n, x: n.out(functional.gelu(n.query(y := n.norm(x)) * n.key(y))).mean(1),
        lambda: {
            "norm": uneven_norm(),
            "query": nn.Linear(16, 8),
            "key": nn.Linear(16, 8),
            "out": nn.Linear(8, 3),
        },
        TOKENS,
        {"norm", "query", "key"},
    ),
    "other readers": (
        lambda n, x: n.head(n.last(functional.silu(y := n.first(x)) + y).mean((2, 3))),
        convolutions,
        IMAGES,
        set(),
    ),
    "twice": (
        lambda n, x: n.last(n.depthwise(n.depthwise(n.first(x)))).mean((2, 3)),
        convolutions,
        IMAGES,
        set(),
    ),
}


def made(form: str) -> tuple[Net, list[str], Supplies]:
    """Return a network, its layers and its data."""
    join, layers, data, _ = FORMS[form]
    model = Net(join, **layers()).eval()
    supplies = Supplies(examples=(data[:1],), calibration=[(data[:12],), (data[12:],)])
    return model, [n for n, m in model.named_modules() if isinstance(m, LAYERS)], supplies


@pytest.mark.parametrize("form", FORMS)
def test_outputs_stay_and_weights_change(form: str) -> None:
    """Only layers and norms whose outputs nothing else reads are scaled; the network computes the same."""
    model, names, supplies = made(form)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = run(model, supplies.calibration[0])
    equalize(model, names, supplies)
    changed = {n.rpartition(".")[0] for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert FORMS[form][3] - {"head"} <= changed if FORMS[form][3] else not changed - {"last", "head"}
    torch.testing.assert_close(run(model, supplies.calibration[0]), expected, rtol=1e-3, atol=1e-4)


def test_channels_have_more_of_the_range() -> None:
    """What was a small channel becomes about as large as the largest, but no number is cut off that was not."""
    model, names, supplies = made("relu6")
    images = torch.cat([x for (x,) in supplies.calibration])
    with torch.no_grad():
        before = functional.relu6(model.first(images)).amax((0, 2, 3))  # type: ignore[operator]
        equalize(model, names, supplies)
        after = model.first(images).amax((0, 2, 3))  # type: ignore[operator]
    assert after[before < 6].max() < 6.001
    assert (after.clamp_max(6).min() / after.clamp_max(6).max()) > 10 * (before.min() / before.max())


def test_only_the_layers_given_are_scaled() -> None:
    """Next to a layer that stays as it is, nothing changes."""
    model, names, supplies = made("relu6")
    assert [(j.makers, j.readers) for j in joints(model, names, supplies.examples)] == [
        (["first"], ["depthwise"]),
        (["depthwise"], ["last"]),
        (["last"], ["head"]),
    ]
    assert [j.makers for j in joints(model, ["first", "depthwise"], supplies.examples)] == [["first"]]
    assert equalize(model, ["first", "last"], supplies) == 0
