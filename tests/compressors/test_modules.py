"""What is found in a network, and what is left alone and why."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.modules import count, evaluating
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import remove_channels
from autocompress.spaces.layers import Network
from autocompress.studies.residual import ResidualNet

EXAMPLES = (torch.ones(1, 1, 8, 8),)


class Depthwise(nn.Module):
    """A convolution, a depthwise one, a pointwise one and a head."""

    def __init__(self, *, groups: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
        self.point = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to three logits."""
        out: Tensor = self.head(self.point(self.depth(self.first(x).relu()).relu()).relu().mean((2, 3)))
        return out


class Concat(nn.Module):
    """Two branches whose channels are put side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(1, 4, 3, padding=1)
        self.right = nn.Conv2d(1, 8, 1)
        self.merge = nn.Conv2d(12, 6, 3)
        self.head = nn.Linear(6 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to three logits."""
        both = torch.cat((self.left(x), self.right(x)), 1).relu()
        out: Tensor = self.head(self.merge(both).relu().flatten(1))
        return out


class FixedView(nn.Module):
    """A network that counts on the number of channels of its second convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.free = nn.Conv2d(1, 4, 3, padding=1)
        self.fixed = nn.Conv2d(4, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to three logits."""
        out: Tensor = self.head(self.fixed(self.free(x).relu()).view(-1, 8, 64).mean(2))
        return out


class Softmax(nn.Sequential):
    """A network whose outputs are not what a layer made."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(4, 4), nn.Softmax(1))


def residual() -> ResidualNet:
    """Return a network of two stages, the second with a convolution in its shortcut."""
    return ResidualNet((8, 16), (1, 1), classes=3)


def members(network: Network) -> dict[str, tuple[str, ...]]:
    """Return the members of each group by its name."""
    return {group.name: group.members for group in network.groups}


def halves(network: Network) -> dict[str, int]:
    """Return half the width for every group."""
    return {group.name: group.channels // 2 for group in network.groups}


def test_residual_network() -> None:
    """Layers that are added share one group, named by the first of them."""
    network = inspect(residual(), EXAMPLES)
    assert members(network) == {
        "stem.0": ("stem.0", "stages.0.0.conv2"),
        "stages.0.0.conv1": ("stages.0.0.conv1",),
        "stages.1.0.conv1": ("stages.1.0.conv1",),
        "stages.1.0.conv2": ("stages.1.0.conv2", "stages.1.0.shortcut.0"),
    }
    assert [group.channels for group in network.groups] == [8, 8, 16, 16]
    layers = {layer.name: layer for layer in network.layers}
    assert layers["stages.1.0.shortcut.0"].in_groups == ("stem.0",)
    assert layers["stages.1.0.shortcut.0"].out_group == "stages.1.0.conv2"
    assert layers["head"].in_groups == ("stages.1.0.conv2",)
    assert layers["head"].out_group is None
    assert network.left_alone == ()


def test_depthwise_network() -> None:
    """A depthwise convolution loses channels with the layer that feeds it, which gives the group its name."""
    network = inspect(Depthwise(), EXAMPLES)
    assert members(network) == {"first": ("first", "depth"), "point": ("point",)}
    assert network.left_alone == ()


def test_concatenated_network() -> None:
    """Branches side by side keep a group each, both read by the layer behind them."""
    network = inspect(Concat(), EXAMPLES)
    assert members(network) == {"left": ("left",), "right": ("right",), "merge": ("merge",)}
    readers = {layer.name: layer.in_groups for layer in network.layers}
    assert readers == {"left": (), "right": (), "merge": ("left", "right"), "head": ("merge",)}


def test_costs_of_layers() -> None:
    """Parameters and multiply-accumulates are those of one example, whatever the batch."""
    costs = count(Depthwise(), (torch.ones(3, 1, 8, 8),))
    assert {name: cost.kind for name, cost in costs.items()} == {
        "first": "conv2d",
        "depth": "conv2d",
        "point": "conv2d",
        "head": "linear",
    }
    assert [cost.params for cost in costs.values()] == [8 * 9 + 8, 8 * 9 + 8, 8 * 16 + 16, 16 * 3 + 3]
    assert [cost.macs for cost in costs.values()] == [64 * 8 * 9, 64 * 8 * 9, 64 * 8 * 16, 16 * 3]


@pytest.mark.parametrize("build", [residual, Depthwise, Concat, FixedView, Softmax])
def test_outputs_keep_their_shape_when_all_groups_shrink(build: type[nn.Module]) -> None:
    """The output layer is in no group, and every group on offer can be pruned together with all others."""
    model = build()
    network = inspect(model, EXAMPLES)
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    assert last not in {name for group in network.groups for name in group.members}
    pruned = remove_channels(model, halves(network), EXAMPLES)
    assert pruned(*EXAMPLES).shape == model(*EXAMPLES).shape
    assert network.groups


def test_layers_behind_which_the_outputs_follow_directly_are_left_alone_with_a_reason() -> None:
    """A last layer that is followed by a softmax would change the outputs' shape."""
    left = dict(inspect(Softmax(), EXAMPLES).left_alone)
    assert left == {"3": "it makes the outputs, whose shape would change from (1, 4) to (1, 2)"}


@pytest.mark.parametrize("keep", ["depth", "first", "head"])
def test_kept_layers_stay_untouched(keep: str) -> None:
    """A kept layer is not on offer, and neither it nor what it reads changes shape."""
    model = Depthwise()
    network = inspect(model, EXAMPLES, keep=[keep])
    assert keep not in {layer.name for layer in network.layers}
    pruned = remove_channels(model, halves(network), EXAMPLES)
    assert torch.equal(pruned.get_submodule(keep).weight, model.get_submodule(keep).weight)
    assert (keep, "the task keeps it") in network.left_alone
    assert network.groups


def test_keeping_a_module_keeps_the_layers_in_it() -> None:
    """A name of a module stands for all layers below it, and for no other that begins like it."""
    model = residual()
    network = inspect(model, EXAMPLES, keep=["stages.1", "he"])
    assert [layer.name for layer in network.layers] == ["stem.0", "stages.0.0.conv1", "stages.0.0.conv2", "head"]
    assert members(network) == {"stages.0.0.conv1": ("stages.0.0.conv1",)}
    assert "which shares its channels" in dict(network.left_alone)["stem.0"]


def test_a_grouped_convolution_loses_as_many_channels_of_each_group() -> None:
    """Neither what it reads nor what it makes is mixed up: half of each group goes."""
    network = inspect(Depthwise(groups=2), EXAMPLES)
    assert members(network) == {"first": ("first",), "depth": ("depth",), "point": ("point",)}
    assert [group.granularity for group in network.groups] == [2, 2, 1]
    pruned = remove_channels(Depthwise(groups=2), {"first": 6, "depth": 4}, EXAMPLES)
    assert pruned.depth.weight.shape == (4, 3, 3, 3)
    assert network.left_alone == ()


def test_hard_coded_channels_are_left_alone() -> None:
    """A group on whose width the forward counts is left alone with what went wrong; others are still on offer."""
    network = inspect(FixedView(), EXAMPLES)
    assert members(network) == {"free": ("free",)}
    ((name, reason),) = network.left_alone
    assert name == "fixed"
    assert reason.startswith(("its forward breaks after pruning: ", "it makes the outputs"))


@pytest.mark.parametrize("build", [residual, Depthwise, Concat, FixedView])
def test_inspecting_leaves_the_network_as_it_was(build: type[nn.Module]) -> None:
    """Weights, statistics, hooks, gradients wanted and each module's own mode stay."""
    model = build().train()
    frozen, *_ = model.parameters()
    frozen.requires_grad_(False)
    next(model.children()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    inspect(model, EXAMPLES)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_modes_come_back_after_an_error() -> None:
    """A network whose forward fails is in its own mode again."""
    model = Depthwise().train()
    model.first.eval()
    with pytest.raises(RuntimeError), evaluating(model):
        model(torch.ones(1))
    assert model.training
    assert not model.first.training


def test_layers_that_are_not_called_are_left_alone() -> None:
    """A module that takes its layer's weight, as PyTorch's attention does, computes with it itself."""
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = inspect(model.eval(), (torch.ones(1, 4, 8),))
    assert {layer.name for layer in network.layers} == {"linear1", "linear2"}
    assert dict(network.left_alone)["self_attn.out_proj"].startswith("the network does not call it")


def test_a_bilinear_layer_is_counted_and_left_alone() -> None:
    """A layer that no technique knows is reported with its share of the work."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.both = nn.Linear(8, 8), nn.Bilinear(8, 8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.both(self.first(x), x)

    network = inspect(Both().eval(), (torch.ones(1, 8),))
    assert dict(network.left_alone)["both"] == "no technique changes a Bilinear: 80% of all multiply-accumulates"
