"""Layers and operations want certain channels to go, and certain numbers of them: every width on offer suits them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.pruning import attempts
from autocompress.compressors.pruning.importance import IMPORTANCES
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import ratios, remove_channels, schedule
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.layers import Group

from ..samples import supplied

X = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def conv(inputs: int, outputs: int, size: int = 3, groups: int = 1) -> nn.Conv2d:
    """Return a convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups)


class Between(nn.Module):
    """A convolution, something that is done with its channels, and two layers behind it."""

    def __init__(self, first: int, then: Callable[..., Tensor], left: int, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.first, self.then = conv(3, first), then
        for name, part in parts.items():
            setattr(self, name, part)
        self.second, self.head = conv(left, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits."""
        out: Tensor = self.head(self.second(self.then(self, self.first(x))).relu().mean((2, 3)))
        return out


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave groups of channels, as ShuffleNet does."""
    batch, channels, *size = x.shape
    return x.view(batch, groups, channels // groups, *size).transpose(1, 2).contiguous().view(x.shape)


def halves(_: nn.Module, x: Tensor) -> Tensor:
    """Exchange the two halves of all channels."""
    first, second = x.relu().chunk(2, 1)
    return torch.cat([second, first], 1)


def sliced(_: nn.Module, x: Tensor) -> Tensor:
    """Multiply the halves of all channels, which are counted in Python."""
    half = x.shape[1] // 2
    return x[:, :half] * x[:, half:].sigmoid()


def one_half(model: nn.Module, x: Tensor) -> Tensor:
    """Let a layer see one half of all channels and put its outputs where they were."""
    first, second = x.chunk(2, 1)
    return torch.cat([first, model.part(second)], 1)


def grouped(model: nn.Module, x: Tensor) -> Tensor:
    """Interleave what a grouped convolution makes."""
    return shuffle(model.part(x).relu(), 4)


KINDS: dict[str, tuple[Callable[[], Between], int]] = {
    "group norm": (lambda: Between(64, lambda m, x: m.norm(x), 64, norm=nn.GroupNorm(16, 64)), 16),
    "two group norms": (
        lambda: Between(24, lambda m, x: m.b(m.a(x)), 24, a=nn.GroupNorm(4, 24), b=nn.GroupNorm(6, 24)),
        12,
    ),
    "functional group norm": (lambda: Between(16, lambda _, x: functional.group_norm(x, 4), 16), 4),
    "gated linear unit": (lambda: Between(24, lambda _, x: functional.glu(x, 1), 12), 2),
    "gated linear unit of groups": (
        lambda: Between(64, lambda m, x: functional.glu(m.norm(x), 1), 32, norm=nn.GroupNorm(16, 64)),
        16,
    ),
    "halves that are exchanged": (lambda: Between(16, halves, 16), 2),
    "halves, one of them used": (lambda: Between(16, one_half, 16, part=conv(8, 8)), 2),
    "halves counted in Python": (lambda: Between(16, sliced, 8), 2),
    "every other channel": (lambda: Between(16, lambda _, x: x[:, ::2] + x[:, 1::2], 8), 2),
    "pixel shuffle": (lambda: Between(32, lambda _, x: functional.pixel_shuffle(x, 2), 8), 4),
    "pixel unshuffle": (lambda: Between(6, lambda _, x: functional.pixel_unshuffle(x, 2), 24), 1),
    "shuffled channels": (lambda: Between(32, lambda _, x: shuffle(x, 4), 32), 4),
    "PyTorch's shuffle": (lambda: Between(32, lambda _, x: functional.channel_shuffle(x, 4), 32), 4),
    "grouped convolution": (lambda: Between(32, lambda m, x: m.part(x), 16, part=conv(32, 16, 3, 4)), 4),
    "grouped and shuffled": (lambda: Between(32, grouped, 32, part=conv(32, 32, 1, 4)), 4),
    "pairs": (lambda: Between(16, lambda _, x: x.view(len(x), x.shape[1] // 2, 2, 8, 8).amax(2), 8), 2),
    "slopes": (lambda: Between(16, lambda m, x: m.act(x), 16, act=nn.PReLU(16)), 1),
    "scales": (lambda: Between(16, lambda m, x: x * m.scale, 16, scale=nn.Parameter(torch.rand(1, 16, 1, 1))), 1),
    "positions": (lambda: Between(16, lambda m, x: x + m.place, 16, place=nn.Parameter(torch.rand(1, 16, 8, 8))), 1),
    "a scale of places": (lambda: Between(16, lambda m, x: x * m.place, 16, place=nn.Parameter(torch.rand(8, 8))), 1),
    "instance norm": (lambda: Between(16, lambda m, x: m.norm(x), 16, norm=nn.InstanceNorm2d(16, affine=True)), 1),
    "norm without scales": (lambda: Between(16, lambda m, x: m.norm(x), 16, norm=nn.BatchNorm2d(16, affine=False)), 1),
    "norm over neighbours": (lambda: Between(16, lambda m, x: m.norm(x), 16, norm=nn.LocalResponseNorm(3)), 1),
    "RMS norm": (
        lambda: Between(16, lambda m, x: m.norm(x.movedim(1, -1)).movedim(-1, 1), 16, norm=nn.RMSNorm(16)),
        1,
    ),
}
EXACT = [name for name in KINDS if not any(word in name for word in ("norm", "positions", "groups"))]
"""Those of which a channel of zeros stays one and changes nothing else."""
ANYWHERE = sorted(set(KINDS) - {"positions", "a scale of places", "pairs"})
"""Those that take images of any size."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_width_on_offer_can_be_served_and_trained(kind: str) -> None:
    """The first layer can be pruned by what is wanted of it, and each of its widths has the network's outputs."""
    build, granularity = KINDS[kind]
    torch.manual_seed(0)
    model = build().eval()
    network = inspect(model, X)
    (group,) = (group for group in network.groups if group.name == "first")
    assert group.granularity == granularity
    other = ("it calls", "its branch stays")  # what is said of functions and of depth
    assert not [why for _, why in network.left_alone if not why.startswith(other)]
    for multiple in (1, 8):
        for ratio in ratios(group, multiple)[1:]:
            pruned = remove_channels(model, {"first": round(group.channels * (1 - ratio))}, X)
            assert pruned.first.out_channels == round(group.channels * (1 - ratio))
            assert pruned(*X).shape == pruned.train()(*X).shape == (2, 5)


@pytest.mark.parametrize("kind", EXACT)
def test_without_channels_the_network_computes_as_if_they_were_zero(kind: str) -> None:
    """Which channels go together, and where they are read, is right: only they are missing."""
    torch.manual_seed(0)
    model = KINDS[kind][0]().eval()
    (group,) = (group for group in inspect(model, X).groups if group.name == "first")
    pruned = remove_channels(model, {"first": group.channels // 2}, X)
    kept = pruned.first.bias.tolist()  # tells channels apart
    with torch.no_grad():
        for channel, bias in enumerate(model.first.bias.tolist()):
            if bias not in kept:
                model.first.weight[channel], model.first.bias[channel] = 0, 0
    torch.testing.assert_close(pruned(*X), model(*X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_every_importance_can_tell_what_goes(importance: str) -> None:
    """Also of what reads channels in groups, and of what two halves are read by."""
    for kind in ("grouped and shuffled", "grouped convolution", "halves counted in Python", "gated linear unit"):
        model = KINDS[kind][0]().eval()
        model.norm = nn.BatchNorm2d(model.first.out_channels).eval()
        model.first = nn.Sequential(model.first, model.norm)
        given = supplied(X, 5)
        for group in inspect(model, X).groups:
            if importance != "bn_scale" or group.name == "first.0":
                widths = {group.name: group.channels // 2}
                assert remove_channels(model, widths, X, importance=importance, supplies=given)(*X).shape == (2, 5)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.sampled_from(ANYWHERE), min_size=2, max_size=3), st.data())
def test_what_is_wanted_one_after_the_other(kinds: list[str], data: st.DataObject) -> None:
    """Whichever widths of all groups are chosen together, the network runs in both modes and its outputs stay."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    stages = [KINDS[kind][0]() for kind in kinds]
    for before, stage in itertools.pairwise(stages):
        stage.first, before.head = conv(8, stage.first.out_channels), nn.Identity()

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList(stages)

        def forward(self, x: Tensor) -> Tensor:
            for stage in self.stages[:-1]:
                x = stage.second(stage.then(stage, stage.first(x))).relu()
            out: Tensor = self.stages[-1](x)
            return out

    model = Chain().eval()
    network = inspect(model, X)
    assert {f"stages.{i}.first" for i in range(len(kinds))} <= {group.name for group in network.groups}
    widths = {}
    for group in network.groups:
        widths[group.name] = round(group.channels * (1 - data.draw(st.sampled_from(ratios(group, 1)))))
    pruned = remove_channels(model, widths, X)
    assert {name: pruned.get_submodule(name).out_channels for name in widths} == widths
    assert pruned(*X).shape == pruned.train()(*X).shape == (2, 5)


class Beside(nn.Module):
    """A network whose inputs are put beside what a layer makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = conv(3, 8), conv(11, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits."""
        out: Tensor = self.head(self.second(torch.cat([x, self.first(x)], 1)).relu().mean((2, 3)))
        return out


def test_channels_beside_the_networks_inputs_are_those_that_are_read() -> None:
    """What goes is read by the columns behind the inputs' own."""
    torch.manual_seed(0)
    model = Beside().eval()
    pruned = remove_channels(model, {"first": 4}, X)
    kept = [model.first.bias.tolist().index(bias) for bias in pruned.first.bias.tolist()]
    assert torch.equal(pruned.second.weight, model.second.weight[:, [0, 1, 2, *(3 + channel for channel in kept)]])


LEFT: dict[str, tuple[Callable[[], Between], str]] = {
    "parts of fixed sizes": (
        lambda: Between(16, lambda _, x: torch.mul(*torch.split(x, [8, 8], 1)), 8),
        "its forward breaks after pruning: split_with_sizes expects split_sizes to sum exactly to 8",
    ),
    "unequal parts": (
        lambda: Between(16, lambda _, x: torch.split(x, [4, 12], 1)[1], 12),
        "its channels are split into parts of 4, 12",
    ),
    "constants": (
        lambda: Between(16, lambda _, x: x * torch.ones(1, 16, 1, 1), 16),
        "its forward breaks after pruning: ",
    ),
    "neighbours": (
        lambda: Between(16, lambda _, x: x.roll(1, 1), 16),
        "its channels mean something else once some are gone",
    ),
    "norms across layers": (
        lambda: Between(
            8, lambda m, x: m.norm(torch.cat([x, m.part(x)], 1)), 24, part=conv(8, 16), norm=nn.GroupNorm(2, 24)
        ),
        "a group norm with 2 groups counts its channels with those of other layers",
    ),
    "a group for each channel": (
        lambda: Between(16, lambda m, x: m.norm(x), 16, norm=nn.GroupNorm(16, 16)),
        "what reads its 16 channels needs all of them",
    ),
}


@pytest.mark.parametrize("kind", LEFT)
def test_what_cannot_be_pruned_is_left_alone_with_its_reason(kind: str) -> None:
    """No width is on offer, and the network's other layers still have theirs."""
    build, reason = LEFT[kind]
    network = inspect(build().eval(), X)
    assert "first" not in {group.name for group in network.groups}
    assert dict(network.left_alone)["first"].startswith(reason)
    assert "second" in {group.name for group in network.groups}


def in_eights(_: nn.Module, x: Tensor) -> Tensor:
    """Refuse what is no multiple of eight, as a kernel may."""
    if x.shape[1] % 8:
        raise ValueError(f"{x.shape[1]} channels")
    return x


def test_what_a_forward_wants_is_found_by_trying() -> None:
    """Where nothing but the forward itself knows what it wants, multiples are tried."""
    model = Between(48, in_eights, 48).eval()
    (group,) = (group for group in inspect(model, X).groups if group.name == "first")
    assert group.granularity == 8
    assert [round(48 * (1 - ratio)) for ratio in ratios(group, 1)] == [48, 40, 32, 24, 16, 8]


def test_the_number_of_tries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not tried is left alone, with that as its reason."""
    monkeypatch.setattr(attempts, "TRIES", 1)
    network = inspect(LEFT["constants"][0]().eval(), X)
    assert network.groups == ()
    assert dict(network.left_alone)["second"].startswith("1 networks were tried")


@pytest.mark.parametrize("kind", ["gated linear unit of groups", "pixel shuffle", "grouped and shuffled"])
def test_pruned_networks_are_exported(kind: str) -> None:
    """The file computes what the network does."""
    torch.manual_seed(0)
    model = KINDS[kind][0]().eval()
    (group,) = (group for group in inspect(model, X).groups if group.name == "first")
    pruned = remove_channels(model, {"first": group.channels // 2}, X)
    session = onnxruntime.InferenceSession(to_onnx(pruned, X).SerializeToString(), providers=["CPUExecutionProvider"])
    (actual,) = session.run(None, {session.get_inputs()[0].name: X[0].numpy()})
    torch.testing.assert_close(torch.from_numpy(actual), pruned(*X), rtol=1e-3, atol=1e-4)


class Auxiliary(nn.Module):
    """A network with a second head while it trains, which has a layer of its own."""

    def __init__(self, *, features: bool = False) -> None:
        super().__init__()
        self.first, self.norm, self.second, self.head = conv(3, 8), nn.BatchNorm2d(8), conv(8, 8), nn.Linear(8, 5)
        self.side, self.aux, self.features = conv(8, 6), nn.Linear(6, 5), features

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Map images to five logits, and some more while training."""
        x = self.norm(self.first(x)).relu()
        out: Tensor = self.head(self.second(x).relu().mean((2, 3)))
        if not self.training:
            return out
        return {"out": out, "aux": x if self.features else self.aux(self.side(x).relu().mean((2, 3)))}


def test_heads_that_are_there_in_training_are_pruned_along() -> None:
    """They read what is left, and are told to run only then; neither they nor statistics are changed by looking."""
    model = Auxiliary().eval()
    before = copy.deepcopy(model.state_dict())
    network = inspect(model, X)
    assert {group.name for group in network.groups} == {"first", "second"}
    assert network.left_alone == tuple((name, "it runs only while the network trains") for name in ("side", "aux"))
    pruned = remove_channels(model, {"first": 3, "second": 5}, X).train()
    assert pruned(*X)["aux"].shape == (2, 5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_outputs_of_the_training_mode_keep_their_shapes() -> None:
    """A layer that makes one of them is left alone, since the loss may count on it."""
    network = inspect(Auxiliary(features=True).eval(), X)
    assert {group.name for group in network.groups} == {"second"}
    assert dict(network.left_alone)["first"].startswith("it makes outputs that the network has while it trains")


class Tied(nn.Module):
    """A network whose last layer has the weight of its embedding; another weight is shared by two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner = nn.Embedding(9, 8), nn.Linear(8, 6)
        self.left, self.right, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 9, bias=False)
        self.out.weight, self.right.weight = self.embed.weight, self.left.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map numbers of words (N, words) to logits of words."""
        x = self.embed(x)
        inner = self.inner(x).relu()
        out: Tensor = self.out((x + self.left(inner) + self.right(inner).relu()).mean(1))
        return out


def test_shared_weights_are_still_shared() -> None:
    """They lose the same channels, and are one parameter afterwards."""
    model, words = Tied().eval(), (torch.arange(6)[None],)
    network = inspect(model, words)
    assert {group.name for group in network.groups} == {"inner", "left"}
    pruned = remove_channels(model, {"inner": 3, "left": 4}, words)
    assert pruned.out.weight is pruned.embed.weight
    assert pruned.left.weight is pruned.right.weight
    assert pruned.left.weight.shape == (4, 3)
    assert pruned(*words).shape == (1, 9)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_pruning_in_steps_keeps_to_what_is_wanted(steps: int) -> None:
    """Every width on the way is one that the network can be trained at."""
    model = KINDS["group norm"][0]().eval()
    candidate = Candidate({"pruning_ratio": {"first": 0.75}, "pruning": {"steps": steps}})
    width = 64
    for step in schedule(candidate, model, X):
        width = round(width * (1 - float(step["pruning_ratio"]["first"])))
        assert remove_channels(model, {"first": width}, X)(*X).shape == (2, 5)
    assert width == 16


def test_widths_on_offer_where_the_runtimes_multiple_leaves_one() -> None:
    """What layers want comes first; the runtime's multiple is kept where it leaves a choice."""
    group = Group(name="conv", channels=48, members=("conv",), granularity=6)
    assert [round(48 * (1 - ratio)) for ratio in ratios(group, 8)] == [48, 42, 36, 30, 24, 18, 12, 6]
    wide = Group(name="conv", channels=64, members=("conv",), granularity=16)
    assert [round(64 * (1 - ratio)) for ratio in ratios(wide, 8)] == [64, 48, 32, 16]
