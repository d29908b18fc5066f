"""Structured pruning: shapes shrink, and what is left computes what it did."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compressors.pruning.importance import IMPORTANCES
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import (
    DEFAULTS,
    Prune,
    channel_scores,
    global_ratios,
    ratios,
    remove_channels,
)
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.spaces.layers import Group
from autocompress.spaces.space import Space
from autocompress.studies.residual import ResidualNet

from ..samples import supplied

EXAMPLES = (torch.ones(1, 2, 6, 6),)


class Step(nn.Module):
    """A convolution (depthwise, where asked), its batch norm and ReLU, perhaps added to a second one."""

    def __init__(self, inputs: int, outputs: int, kind: str, *, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.kind = kind
        if kind != "plain":
            groups = outputs if kind == "depthwise" else 1
            self.second = nn.Conv2d(outputs, outputs, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W)."""
        x = self.norm(self.conv(x)).relu()
        if self.kind == "plain":
            return x
        y: Tensor = self.second(x)
        return (y + x if self.kind == "residual" else y).relu()


@st.composite
def networks(draw: st.DrawFn) -> nn.Sequential:
    """Draw a small network in evaluation mode, with weights and statistics of its own."""
    steps = draw(
        st.lists(
            st.tuples(st.integers(2, 6), st.sampled_from(["plain", "residual", "depthwise"]), st.booleans()),
            min_size=1,
            max_size=3,
        )
    )
    torch.manual_seed(draw(st.integers(0, 999)))
    model, last = nn.Sequential(), 2
    for width, kind, norm in steps:
        model.append(Step(last, width, kind, norm=norm))
        last = width
    model.append(nn.Flatten())
    if draw(st.booleans()):
        model.append(nn.Linear(36 * last, 3))
    else:
        model.extend([nn.Linear(36 * last, 5), nn.ReLU(), nn.Linear(5, 3)])
    for name, value in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(value, 0.5, 1.5)
    for name, value in model.named_buffers():
        if "running" in name:
            nn.init.uniform_(value, 0.5, 1.5)
    return model.eval()


def has_norm(model: nn.Module, name: str) -> bool:
    """Say whether a batch norm follows a layer."""
    return name.endswith("conv") and isinstance(model.get_submodule(name.replace("conv", "norm")), nn.BatchNorm2d)


def zeroed(model: nn.Module, group: Group, kept: set[int]) -> nn.Module:
    """Return a copy in which the channels that are not kept are zero wherever the group has them."""
    model = copy.deepcopy(model)
    gone = [channel for channel in range(group.channels) if channel not in kept]
    for name in group.members:
        modules = [model.get_submodule(name)]
        if has_norm(model, name):
            modules.append(model.get_submodule(name.replace("conv", "norm")))
        for module in modules:
            module.weight.data[gone] = 0
            module.bias.data[gone] = 0
    return model


@settings(deadline=None, max_examples=40)
@given(networks(), st.sampled_from(IMPORTANCES), st.data())
def test_pruned_network_computes_what_the_network_with_zeroed_channels_does(
    model: nn.Sequential, importance: str, data: st.DataObject
) -> None:
    """Taking channels away equals setting them to zero in every member of their group, however they are chosen."""
    group = data.draw(st.sampled_from(inspect(model, EXAMPLES).groups))
    width = data.draw(st.integers(1, group.channels))
    given = supplied(EXAMPLES, 3)
    if importance == "bn_scale" and not any(has_norm(model, name) for name in group.members):
        with pytest.raises(InfeasibleError, match="needs batch norms"):
            remove_channels(model, {group.name: width}, EXAMPLES, importance=importance, supplies=given)
        return
    pruned = remove_channels(model, {group.name: width}, EXAMPLES, importance=importance, supplies=given)
    whole, left = (m.get_submodule(group.name).bias.tolist() for m in (model, pruned))  # biases tell channels apart
    kept = {whole.index(value) for value in left}
    assert len(kept) == width
    x = torch.randn(4, 2, 6, 6)
    torch.testing.assert_close(pruned(x), zeroed(model, group, kept)(x), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(networks(), st.data())
def test_all_groups_shrink_to_the_widths_asked_for(model: nn.Sequential, data: st.DataObject) -> None:
    """Every member of every group has exactly the width asked for, in one go."""
    groups = inspect(model, EXAMPLES).groups
    widths = {group.name: data.draw(st.integers(1, group.channels)) for group in groups}
    pruned = remove_channels(model, widths, EXAMPLES)
    for group in groups:
        assert {pruned.get_submodule(name).weight.shape[0] for name in group.members} == {widths[group.name]}
    assert pruned(*EXAMPLES).shape == (1, 3)


def test_least_magnitude_goes_first() -> None:
    """The channels that remain are those of the largest weights, in their order."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    sizes = torch.tensor([2.0, 0.1, 3.0, 0.2])
    model[0].weight.data = sizes[:, None].expand(4, 3).clone()
    model[2].weight.data = torch.ones(2, 4)
    pruned = remove_channels(model, {"0": 2}, (torch.ones(1, 3),))
    assert pruned[0].weight[:, 0].tolist() == [2.0, 3.0]


@given(st.integers(1, 600), st.integers(1, 64))
def test_ratios_are_distinct_sorted_and_leave_multiples(channels: int, multiple: int) -> None:
    """A group is offered whole and at widths that are multiples, mild to strong, each once."""
    offers = ratios(Group(name="conv", channels=channels, members=("conv",)), multiple)
    assert offers[0] == 0
    assert list(offers) == sorted(set(offers))
    assert len(offers) <= 8
    for ratio in offers[1:]:
        width = round(channels * (1 - ratio))
        assert width % multiple == 0
        assert 0 < width < channels
        assert ratio == pytest.approx(1 - width / channels)


def test_a_choice_for_each_group_that_has_one() -> None:
    """Groups too narrow for the runtime's multiple are not on offer."""
    network = inspect(ResidualNet((8, 16), (1, 1)), (torch.ones(1, 1, 8, 8),))
    offers = Prune().choices(network, Capabilities(runtime="fake", channel_multiple=8))
    assert {choice.target: choice.levels for choice in offers} == {
        "stages.1.0.conv1": (0.0, 0.5),
        "stages.1.0.conv2": (0.0, 0.5),
    }
    assert all(choice.neutral == 0.0 for choice in offers)


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_every_ratio_on_offer_gives_a_multiple(multiple: int) -> None:
    """What a group's ratio promises is the width that the layer has in the end."""
    examples = (torch.ones(1, 1, 8, 8),)
    model = ResidualNet((8, 16), (1, 1))
    network = inspect(model, examples)
    for choice in Prune().choices(network, Capabilities(runtime="fake", channel_multiple=multiple)):
        channels = model.get_submodule(choice.target).weight.shape[0]
        for ratio in choice.levels[1:]:
            pruned = Prune().apply(
                model, Candidate({"pruning_ratio": {choice.target: ratio}}), Supplies(examples=examples, calibration=())
            )
            width = pruned.get_submodule(choice.target).weight.shape[0]
            assert width == channels * (1 - float(ratio))
            assert width % multiple == 0


def test_unknown_group_is_infeasible() -> None:
    """A candidate for another network ends at the rung of building."""
    supplies = Supplies(examples=EXAMPLES, calibration=())
    with pytest.raises(InfeasibleError, match="no group 'conv9'") as caught:
        Prune().apply(nn.Sequential(nn.Conv2d(2, 3, 1)), Candidate({"pruning_ratio": {"conv9": 0.5}}), supplies)
    assert caught.value.rung == "build"


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_kept(training: bool) -> None:
    """The pruned copy is in the mode that the network was in."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).train(training)
    assert remove_channels(model, {"0": 2}, (torch.ones(1, 3),)).training is training
    assert model.training is training


def test_settings_on_offer_begin_with_the_defaults() -> None:
    """A candidate that prunes states how; one that does not, leaves it out; the defaults are what is done unsaid."""
    network = inspect(ResidualNet((8, 16), (1, 1)), (torch.ones(1, 1, 8, 8),))
    technique = Prune()
    space = Space((*technique.choices(network, Capabilities(runtime="fake")), *technique.settings()))
    assert space.candidate({})["pruning"] == {}
    assert space.at(lambda choice: int(choice.axis == "pruning_ratio"))["pruning"] == DEFAULTS
    assert DEFAULTS == {"importance": "magnitude", "steps": 1, "penalty": "none"}


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_setting_decides_which_channels_go(importance: str) -> None:
    """What a candidate says of importance is what the network is pruned by; unsaid it is the magnitude."""
    examples = (torch.ones(1, 1, 8, 8),)
    model, given = ResidualNet((8, 16), (1, 1)).eval(), supplied(examples, 10)
    axes = {"pruning_ratio": {"stem.0": 0.5}, "pruning": {"importance": importance}}
    pruned = Prune().apply(model, Candidate(axes), given)
    kept = channel_scores(model, ["stem.0"], given, importance=importance)["stem.0"].argsort(stable=True)[4:]
    assert torch.equal(pruned.get_submodule("stem.0").weight, model.stem[0].weight[kept.sort().values])
    unsaid = Prune().apply(model, Candidate({"pruning_ratio": {"stem.0": 0.5}}), given)
    same = torch.equal(unsaid.get_submodule("stem.0").weight, pruned.get_submodule("stem.0").weight)
    assert same or importance != "magnitude"


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 1), st.sampled_from(["magnitude", "l1", "lamp", "median"]), st.sampled_from([1, 4, 8]), st.data())
def test_global_ratios_take_the_share_of_all_channels(
    share: float, importance: str, multiple: int, data: st.DataObject
) -> None:
    """What goes is within half a level of the share, all on offer, at most seven eighths of a group."""
    widths = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    layers: list[nn.Module] = []
    for inputs, outputs in zip([2, *widths], widths, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model, examples = nn.Sequential(*layers, nn.Linear(widths[-1], 2)), (torch.ones(1, 2),)
    network = inspect(model, examples)
    given = Supplies(examples=examples, calibration=())
    found = global_ratios(model, network, given, share, importance=importance, multiple=multiple)
    offers = {group.name: [r for r in ratios(group, multiple) if r <= 0.875] for group in network.groups}
    assert all(0 < ratio <= 0.875 and ratio in offers[name] for name, ratio in found.items())
    channels = {group.name: group.channels for group in network.groups}
    goal = share * sum(channels.values())
    gone = sum(ratio * channels[name] for name, ratio in found.items())
    most = sum(offers[name][-1] * n for name, n in channels.items())
    gap = max(
        (b - a) * n for name, n in channels.items() for a, b in zip([0, *offers[name]], offers[name], strict=False)
    )
    assert abs(gone - min(goal, most)) <= gap / 2 + 1e-6


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_global_ratios_spare_groups_that_are_worth_it(importance: str) -> None:
    """A group of which half is useless loses that half before one whose channels are all alike loses any."""
    examples = (torch.ones(1, 1, 8, 8),)
    model = ResidualNet((16, 16), (1, 1)).eval()
    model.stages[0][0].bn1.weight.data[8:] = 1e-4
    model.stages[0][0].bn1.bias.data[8:] = 0
    model.stages[0][0].conv1.weight.data[8:] *= 1e-4
    model.stages[0][0].conv2.weight.data[:, 8:] *= 1e-4
    network, given = inspect(model, examples), supplied(examples, 10)
    share = 8 / sum(group.channels for group in network.groups)
    before = copy.deepcopy(model.state_dict())
    found = global_ratios(model, network, given, share, importance=importance, multiple=8)
    assert found == {"stages.0.0.conv1": 0.5}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert global_ratios(model, network, given, 0.0, importance=importance) == {}


def test_global_ratios_of_a_network_without_groups() -> None:
    """Nothing to prune gives nothing."""
    model, examples = nn.Sequential(nn.Linear(2, 3)), (torch.ones(1, 2),)
    network = inspect(model, examples)
    assert global_ratios(model, network, Supplies(examples=examples, calibration=()), 0.5) == {}
