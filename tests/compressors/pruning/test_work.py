"""How much a network computes is counted in all of it, whatever it is made of."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from autocompress.compressors.modules import count, work
from autocompress.compressors.pruning.inspect import inspect


class Functional(nn.Module):
    """A convolution and a product by functions, beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 1, 3, 3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        y = functional.conv2d(x, self.weight, padding=1).flatten(2)
        return self.head((y @ y.transpose(1, 2)).mean(2))


class Product(nn.Module):
    """A layer of nobody's kind."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return x @ self.weight


class Branches(nn.Module):
    """One of two layers, as the input says."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return torch.cond(x.sum() > 0, lambda x: self.left(x), lambda x: self.right(x), (x,))


class ByKeyword(nn.Module):
    """A layer that is called by its argument's name, and one module that returns several things."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return self.second(input=self.first(input=x)[0][:, -1])


class Windows(nn.Module):
    """A linear layer whose batch is of windows: several of them an example."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        y = self.inner(x.reshape(-1, 2, 4)).reshape(x.shape[0], -1, 6)
        return self.head(y.mean(1))


class Attending(nn.Module):
    """PyTorch's encoder layer, whose attention computes by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens."""
        return self.layer(x)


def one(*sizes: int) -> tuple[Tensor]:
    """Return one example."""
    return (torch.randn(1, *sizes),)


MADE = {
    "functions": (Functional, (1, 4, 4), {"": 16 * 8 * 9 + 0 + 8 * 8 * 16, "head": 24}),
    "branches": (Branches, (4,), {"left": 12, "right": 12}),
    "keywords": (ByKeyword, (7, 4), {"first": 7 * 20 * 9, "second": 15}),
    "windows": (Windows, (6, 4), {"inner": 6 * 24, "head": 18}),
    "attention": (
        Attending,
        (5, 8),
        {"layer.self_attn": 5 * 8 * 32 + 2 * 25 * 8, "layer.linear1": 640, "layer.linear2": 640},
    ),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 4, 2, 2)), (2, 3, 3), {"0": 9 * 2 * 4 * 4}),
    "three dimensions": (lambda: nn.Sequential(nn.Conv3d(2, 4, 3, dilation=2)), (2, 5, 5, 5), {"0": 2 * 4 * 27}),
    "unknown layer": (lambda: nn.Sequential(Product()), (4,), {"0": 12}),
    "one dimension": (lambda: nn.Sequential(nn.Conv1d(4, 4, 3, groups=2)), (4, 6), {"0": 4 * 4 * 2 * 3}),
}


@pytest.mark.parametrize("name", MADE)
def test_all_that_multiplies_is_counted(name: str) -> None:
    """Layers and modules of any kind, functions, branches and attention have their multiply-accumulates."""
    build, sizes, expected = MADE[name]
    assert {n: macs for n, macs in work(build().eval(), one(*sizes)).items() if macs} == expected


@pytest.mark.parametrize("name", ["branches", "keywords", "windows"])
def test_layers_are_counted_whatever_calls_them(name: str) -> None:
    """A layer in a branch, one called by keyword, and one whose batch is another than the network's are layers."""
    build, sizes, expected = MADE[name]
    assert {n: cost.macs for n, cost in count(build().eval(), one(*sizes)).items()} == expected


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_layers_of_known_networks_are_all_they_compute(name: str) -> None:
    """The sum over layers is what PyTorch's own counter says of the whole network."""
    model, examples = getattr(torchvision.models, name)(num_classes=3).eval(), one(3, 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        model(*examples)
    assert sum(cost.macs for cost in count(model, examples).values()) == flops.get_total_flops() // 2


@pytest.mark.parametrize(
    ("name", "part", "share"), [("functions", "(its forward)", 99), ("unknown layer", "0", 100), ("branches", "", 0)]
)
def test_what_no_technique_changes_is_told(name: str, part: str, share: int) -> None:
    """It is left alone with its share of the work; where that is the most of it, the network is reported so."""
    build, sizes, _ = MADE[name]
    network = inspect(build().eval(), one(*sizes))
    told = {n: why for n, why in network.left_alone if "multiply-accumulates" in why}
    assert list(told) == [part][: bool(share)]
    assert all(f"{share}% of all multiply-accumulates" in why for why in told.values())
    assert bool(network.beyond) == bool(share)
    assert network.macs - network.unreached == sum(layer.macs for layer in network.layers if share != 100)
