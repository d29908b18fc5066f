"""Structured pruning: shapes shrink, and what is left computes what it did."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compressors.graph import inspect
from autocompress.compressors.importance import IMPORTANCES
from autocompress.compressors.pipeline import compress, phases
from autocompress.compressors.prune import (
    DEFAULTS,
    Prune,
    channel_scores,
    global_ratios,
    penalty,
    ratios,
    remove_channels,
    schedule,
    way,
)
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.spaces.layers import Group
from autocompress.spaces.space import Space
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

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


def supplied(examples: tuple[Tensor, ...], classes: int) -> Supplies:
    """Return two batches of noise."""
    generator = torch.Generator().manual_seed(1)
    data = [(torch.randn(8, *examples[0].shape[1:], generator=generator), torch.arange(8) % classes) for _ in range(2)]
    return Supplies(examples=examples, calibration=(), batches=data)


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


@given(st.integers(1, 2000), st.integers(1, 6), st.sampled_from([1, 1, 2, 3, 24, 64]), st.data())
def test_way_goes_down_to_the_width_in_equal_parts(
    channels: int, steps: int, granularity: int, data: st.DataObject
) -> None:
    """Widths fall to the last, whole grains at a time, near the straight line, in fine multiples where they can."""
    channels *= granularity
    width = data.draw(st.integers(1, channels // granularity)) * granularity
    widths = way(channels, width, steps, granularity=granularity)
    assert len(widths) == steps
    assert widths[-1] == width
    assert widths == sorted(widths, reverse=True)
    gone = channels - width
    for step, found in enumerate(widths, start=1):
        assert width <= found <= channels
        assert found % granularity == 0
        line = channels - gone * step / steps
        assert abs(found - line) <= max(granularity, gone / steps) / 2 + 1e-9
    for power in (granularity * 2**i for i in range(8)):
        if width % power == 0 and channels % power == 0 and gone // power >= steps:
            assert all(found % power == 0 for found in widths)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.sampled_from([2, 3, 4]), st.data())
def test_schedule_reaches_exactly_the_final_widths(widths: list[int], steps: int, data: st.DataObject) -> None:
    """Step after step, each on what the last one left, gives the widths that the candidate gives in one go."""
    examples = (torch.ones(1, 2),)
    layers: list[nn.Module] = []
    for inputs, outputs in zip([2, *widths], widths, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 2))
    names = [str(2 * i) for i in range(len(widths))]
    ratio = {name: 1 - data.draw(st.integers(1, n)) / n for name, n in zip(names, widths, strict=True)}
    candidate = Candidate({"pruning_ratio": ratio, "pruning": {"steps": steps}, "bits": {"0": 8}})
    given, found = Supplies(examples=examples, calibration=()), schedule(candidate, model, examples)
    assert 1 <= len(found) <= steps
    pruned: nn.Module = model
    for step in found:
        before = pruned
        pruned = Prune().apply(before, step, given)
        assert {axis: step[axis] for axis in ("pruning", "bits")} == {a: candidate[a] for a in ("pruning", "bits")}
        for name in step["pruning_ratio"] if any(ratio.values()) else ():
            narrower, wider = (m.get_submodule(name).weight.shape[0] for m in (pruned, before))
            assert narrower < wider
    direct = Prune().apply(model, candidate, given)
    assert [p.shape for p in pruned.parameters()] == [p.shape for p in direct.parameters()]


class Attention(nn.Module):
    """Four heads of six channels over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 6
        self.qkv = nn.Linear(8, 3 * 24)
        self.proj = nn.Linear(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, 8) to the same shape."""
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        found = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        out: Tensor = self.proj(found.reshape(n, t, self.num_heads * self.head_dim))
        return out


def test_schedule_takes_whole_heads() -> None:
    """Attention loses one head at a time, though its channels would divide otherwise."""
    model, examples = nn.Sequential(Attention(), nn.ReLU(), nn.Linear(8, 2)).eval(), (torch.randn(1, 3, 8),)
    candidate = Candidate({"pruning_ratio": {"0.qkv": 0.75}, "pruning": {"steps": 2}})
    given, counts, pruned = Supplies(examples=examples, calibration=()), [], model
    for step in schedule(candidate, model, examples):
        pruned = Prune().apply(pruned, step, given)  # type: ignore[assignment]
        counts.append(pruned[0].qkv.out_features // 18)
    assert counts in ([2, 1], [3, 1])
    assert pruned(*examples).shape == (1, 3, 2)


@pytest.mark.parametrize("importance", [name for name in IMPORTANCES if name != "bn_scale"])
def test_useless_head_goes_first(importance: str) -> None:
    """Of attention the whole head goes whose channels are worth least together, however they are scored."""
    model, examples = nn.Sequential(Attention(), nn.ReLU(), nn.Linear(8, 2)).eval(), (torch.ones(1, 3, 8),)
    attention = model.get_submodule("0")
    head = range(6, 12)
    with torch.no_grad():
        for row in (start + channel for start in (0, 24, 48) for channel in head):
            attention.qkv.weight[row], attention.qkv.bias[row] = 0, 0
        attention.proj.weight[:, head] = 0
    data = [(torch.randn(8, 3, 8), torch.randint(0, 2, (8, 2))) for _ in range(2)]
    given = Supplies(examples=examples, calibration=(), batches=data, loss=token_loss)
    pruned = remove_channels(model, {"0.qkv": 54}, examples, importance=importance, supplies=given)
    x = torch.randn(2, 3, 8)
    assert pruned.get_submodule("0.proj").weight.shape == (8, 18)
    torch.testing.assert_close(pruned(x), model(x), rtol=1e-4, atol=1e-5)


def token_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared difference of the mean over a sequence from a target."""
    inputs, targets = batch
    return nn.functional.mse_loss(model(inputs).mean(1), targets.float())


def small_task() -> Task:
    """Return a task with a small residual network and noise for data."""
    data = [(torch.randn(8, 1, 8, 8), torch.arange(8) % 10) for _ in range(2)]
    model = ResidualNet((8, 16), (1, 1)).eval()
    return Task(model=model, example_inputs=torch.ones(1, 1, 8, 8), train=data, validation=data)


RATIOS = {"stem.0": 0.5, "stages.1.0.conv1": 0.75}


def test_phases_make_small_then_prune_bit_by_bit() -> None:
    """A candidate with a penalty and four steps is trained once unpruned, and after each step, for all epochs."""
    task, seen = small_task(), []
    how = {"steps": 4, "penalty": "group", "importance": "taylor"}
    candidate = Candidate({"pruning_ratio": RATIOS, "pruning": how})
    found = phases(candidate, task.model, task.examples)
    assert [len(phase.techniques) for phase in found] == [0, 1, 1, 1, 1]
    assert [phase.penalty is None for phase in found] == [False, True, True, True, True]
    assert sum(phase.share for phase in found) == pytest.approx(1)

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        seen.append(student.get_submodule("stages.1.0.conv1").weight.shape[0])

    compressed = compress(replace(task, fit=fit), candidate, supplied(task.examples, 10), epochs=1)
    assert seen == [16, 14, 10, 8, 4]
    assert compressed.plain.get_submodule("stem.0").weight.shape[0] == 4


def test_default_settings_are_one_step_without_penalty() -> None:
    """A candidate that says nothing of how it is pruned has one phase, with all that it prunes."""
    task, candidate = small_task(), Candidate({"pruning_ratio": RATIOS})
    (phase,) = phases(candidate, task.model, task.examples)
    assert phase.candidate == candidate
    assert phase.penalty is None


def test_no_penalty_on_what_stays() -> None:
    """Groups whose ratio is 0 pay nothing, and there is no penalty where nothing is pruned."""
    task = small_task()
    idle = Candidate({"pruning_ratio": {"stem.0": 0.0}, "pruning": {"penalty": "group"}})
    assert penalty(idle, task.model, task.examples) is None
    busy = Candidate({"pruning_ratio": {**RATIOS, "stem.0": 0.0}, "pruning": {"penalty": "l1"}})
    extra = penalty(busy, task.model, task.examples)
    assert extra is not None
    slopes = torch.autograd.grad(extra(task.model), [task.model.stem[1].weight], allow_unused=True)
    assert slopes == (None,)


def test_steps_are_positive() -> None:
    """No step at all is infeasible."""
    task = small_task()
    candidate = Candidate({"pruning_ratio": RATIOS, "pruning": {"steps": 0}})
    with pytest.raises(InfeasibleError, match="1 step or more, got 0"):
        schedule(candidate, task.model, task.examples)


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
