"""Which parts of a network are residual branches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.depth.branches import find_branches
from autocompress.studies.residual import ResidualNet

IMAGE = torch.ones(1, 1, 8, 8)


def found(model: nn.Module, *inputs: Tensor) -> dict[str, tuple[str, ...]]:
    """Return the layers of each branch of a network."""
    return {branch.name: branch.layers for branch in find_branches(model.eval(), inputs)}


class Net(nn.Module):
    """A stem, whatever a test makes of its output, and a head."""

    def __init__(self, middle: Callable[[nn.ModuleDict, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.stem, self.parts, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.ModuleDict(parts), nn.Linear(4, 2)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        """Return two logits."""
        out: Tensor = self.head(self.middle(self.parts, self.stem(x).relu()).mean((2, 3)))
        return out


def conv(inputs: int = 4, outputs: int = 4, stride: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps the shape, or halves it."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def test_blocks_that_keep_and_change_the_shape() -> None:
    """A block's branch is all that its shortcut goes around, also where that has a layer which changes the shape."""
    assert found(ResidualNet((4, 8), (2, 1)), IMAGE) == {
        "stages.0.0.conv2": ("stages.0.0.conv1", "stages.0.0.conv2"),
        "stages.0.1.conv2": ("stages.0.1.conv1", "stages.0.1.conv2"),
        "stages.1.0.conv2": ("stages.1.0.conv1", "stages.1.0.conv2"),
    }


def padded(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """Add to what is left of the inputs after a stride, with zeros for further channels."""
    return p["two"](p["one"](x).relu()) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 2))


def in_place(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """Add in place, after functions that keep zero."""
    y = 0.5 * functional.gelu(p["two"](p["one"](x)))
    y += x
    return y.relu_()


def side_by_side(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """Add two branches to one shortcut."""
    return x + p["one"](x) + p["two"](x)


def nested(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """Add a branch in which there is another one."""
    y = p["one"](x)
    return x + p["three"](y + p["two"](y))


def twice(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """Run one branch twice."""
    for _ in range(2):
        x = x + p["two"](p["one"](x))
    return x


def unpacked(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """Add the sum of the parts of a result."""
    one, two = p["one"](x).chunk(2, 1)
    return x + p["two"](torch.cat([two, one], 1))


@pytest.mark.parametrize(
    ("middle", "parts", "branches"),
    [
        (padded, {"one": conv(4, 6, 2), "two": conv(6, 6)}, {"two": ("one", "two")}),
        (in_place, {"one": conv(), "two": conv()}, {"two": ("one", "two")}),
        (side_by_side, {"one": conv(), "two": conv()}, {"one": ("one",), "two": ("two",)}),
        (
            nested,
            {"one": conv(), "two": conv(), "three": conv()},
            {"two": ("two",), "three": ("one", "two", "three")},
        ),
        (twice, {"one": conv(), "two": conv()}, {"two": ("one", "two")}),
        (unpacked, {"one": conv(), "two": conv()}, {"two": ("one", "two")}),
    ],
)
def test_branches_of_any_forward(
    middle: Callable[..., Tensor], parts: dict[str, nn.Module], branches: dict[str, tuple[str, ...]]
) -> None:
    """Shortcuts that pad, additions in place, several branches, branches in branches and modules that run twice."""
    model = Net(middle, **parts)
    if middle is padded:
        model.head = nn.Linear(6, 2)
    assert found(model, IMAGE) == {
        f"parts.{name}": tuple(f"parts.{layer}" for layer in layers) for name, layers in branches.items()
    }


def two_ways(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """Add two results of several layers each."""
    return p["two"](p["one"](x)) + p["four"](p["three"](x))


def gated(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """Multiply by a gate."""
    return x * p["one"](x).sigmoid()


def read_elsewhere(p: nn.ModuleDict, x: Tensor) -> Tensor:
    """Read the only layer of a branch elsewhere, too."""
    y = p["one"](x)
    return torch.cat([(x + y)[:, :2], y[:, :2]], 1)


@pytest.mark.parametrize("middle", [two_ways, gated, read_elsewhere])
def test_what_is_no_branch(middle: Callable[..., Tensor]) -> None:
    """Neither of two long ways, no gate, and nothing that something else needs."""
    parts = {name: conv() for name in ("one", "two", "three", "four")}
    assert found(Net(middle, **parts), IMAGE) == {}


def test_a_mask_is_no_shortcut() -> None:
    """Attention's scores are not a branch around the mask that is added to them, of the shape of the scores."""

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.query, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            x = self.words(ids)
            mask = (ids[:, None] > 3).to(x.dtype).expand(-1, ids.shape[1], -1)
            scores = self.query(x) @ x.mT + mask
            out: Tensor = self.head(scores.softmax(-1) @ x)
            return out

    assert found(Attending(), torch.arange(6)[None]) == {}
