"""What a channel is worth: the formulas of the papers, and that useless channels are found."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compressors.pruning.dependency_groups import channel_group, dependency_graph
from autocompress.compressors.pruning.importance import FROM_GRADIENTS, IMPORTANCES, group_slices, scorer
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import channel_scores, remove_channels
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Batch

IMAGES = (torch.ones(1, 1, 8, 8),)
OTHERS = tuple(name for name in IMPORTANCES if name != "bn_scale")


def supplies(examples: tuple[Tensor, ...], classes: int, batches: int = 3) -> Supplies:
    """Return some batches of noise."""
    generator = torch.Generator().manual_seed(3)
    shape = examples[0].shape[1:]
    data = [
        (torch.randn(16, *shape, generator=generator), torch.randint(0, classes, (16,), generator=generator))
        for _ in range(batches)
    ]
    return Supplies(examples=examples, calibration=(), batches=data)


def residual() -> ResidualNet:
    """Return an untrained residual network in evaluation mode whose batch norms differ from channel to channel."""
    model = ResidualNet((8, 16), (1, 1)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, 0.1, 0.5)
    return model


def two_layers(weight: Sequence[Sequence[float]], reader: Sequence[Sequence[float]]) -> nn.Sequential:
    """Return two linear layers without bias and nothing between them."""
    first, second = torch.tensor(weight), torch.tensor(reader)
    model = nn.Sequential(nn.Linear(*reversed(first.shape), bias=False), nn.Linear(*reversed(second.shape), bias=False))
    model[0].weight.data, model[1].weight.data = first, second
    return model


def plant(model: nn.Module, name: str, useless: list[int]) -> None:
    """Make some channels of a group zero wherever they are written, scaled and read."""
    graph = dependency_graph(model, IMAGES)
    root = model.get_submodule(name)
    for part in group_slices(graph, channel_group(graph, root, list(range(root.weight.shape[0])))):
        rows = part.rows[torch.isin(part.channels, torch.tensor(useless))]
        with torch.no_grad():
            for parameter in part.parameters():
                parameter.transpose(0, part.dim if parameter is part.weight else 0)[rows] = 0


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_planted_useless_channels_go(importance: str) -> None:
    """Channels that are zero everywhere score least and are the ones that are removed, in every group."""
    model, given = residual(), supplies(IMAGES, 10)
    groups = inspect(model, IMAGES).groups
    useless = {group.name: list(range(1, group.channels, 3)) for group in groups}
    for name, channels in useless.items():
        plant(model, name, channels)
    for name, scores in channel_scores(model, list(useless), given, importance=importance).items():
        assert sorted(scores.argsort(stable=True)[: len(useless[name])].tolist()) == useless[name]
        rest = torch.ones(len(scores)).index_fill(0, torch.tensor(useless[name]), 0).bool()
        assert scores[useless[name]].max() < scores[rest].min()
    widths = {group.name: group.channels - len(useless[group.name]) for group in groups}
    pruned = remove_channels(model, widths, IMAGES, importance=importance, supplies=given)
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(pruned(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("training", [True, False])
def test_scores_repeat_and_leave_the_network(importance: str, training: bool) -> None:
    """The same network and batches give the same scores; weights, statistics, gradients, mode and random state stay."""
    model, given = residual().train(training), supplies(IMAGES, 10)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    once, again = (channel_scores(model, ["stem.0"], given, importance=importance)["stem.0"] for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == (8,)
    assert (once >= 0).all()
    assert not once.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training is training for module in model.modules())


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 5), st.integers(0, 999), st.booleans())
def test_taylor_is_the_squared_gradient_of_a_gate(channels: int, seed: int, flat: bool) -> None:
    """It is the mean over batches of the squared derivative of the loss by a factor on what readers see."""
    torch.manual_seed(seed)
    first = nn.Sequential(nn.Conv2d(2, channels, 3), nn.BatchNorm2d(channels), nn.ReLU())
    tail = [nn.Flatten(), nn.Linear(channels * 4, 3)] if flat else [nn.Conv2d(channels, 3, 2), nn.Flatten()]
    model = nn.Sequential(first, *tail).eval()
    examples = (torch.ones(1, 2, 4, 4),)
    given = supplies(examples, 3)
    squares = []
    for inputs, labels in given.batches:
        gate = torch.ones(channels, requires_grad=True)
        outputs = nn.Sequential(*tail)(first(inputs) * gate[:, None, None])
        (slope,) = torch.autograd.grad(nn.functional.cross_entropy(outputs, labels), gate)
        squares.append(slope.square())
    scores = channel_scores(model, ["0.0"], given, importance="taylor")["0.0"]
    torch.testing.assert_close(scores, torch.stack(squares).mean(0), rtol=1e-3, atol=1e-9)


def test_hessian_is_half_of_weight_squared_times_mean_squared_gradient() -> None:
    """It is summed over the weights and the bias that a channel has in its group."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    given = supplies((torch.ones(1, 3),), 2)
    squares = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for batch in given.batches:
        for square, slope in zip(
            squares, torch.autograd.grad(given.loss(model, batch), model.parameters()), strict=True
        ):
            square += slope.square() / len(given.batches)
    weight, bias, reader, _ = (0.5 * p.detach().square() * h for p, h in zip(model.parameters(), squares, strict=True))
    scores = channel_scores(model, ["0"], given, importance="hessian")["0"]
    torch.testing.assert_close(scores, weight.sum(1) + bias + reader.sum(0))


def test_lamp_is_relative_to_what_stays() -> None:
    """Each layer's squared magnitude is divided by the sum of those that are not smaller."""
    model = two_layers([[2.0], [1.0], [4.0], [3.0]], [[0.0, 0.0, 0.0, 0.0]])
    scores = channel_scores(model, ["0"], supplies((torch.ones(1, 1),), 1), importance="lamp")["0"]
    torch.testing.assert_close(scores, torch.tensor([4 / 29, 1 / 30, 1.0, 9 / 25]))


def test_lamp_weighs_layers_alike() -> None:
    """A layer with large weights does not decide alone, as it does for the magnitude."""
    large, small = [[30.0], [31.0], [32.0]], [[0.5, 0.1, 0.4]]
    order = {
        importance: channel_scores(
            two_layers(large, small), ["0"], supplies((torch.ones(1, 1),), 1), importance=importance
        )["0"].argmin()
        for importance in ("magnitude", "lamp")
    }
    assert order == {"magnitude": 0, "lamp": 1}


def test_median_replaces_what_others_are_like() -> None:
    """The filter nearest to the geometric median goes first, not the smallest; signs count."""
    model = two_layers([[5.0, 5.0], [5.5, 5.0], [6.0, 5.0], [-6.0, -5.0], [1.0, 0.0]], [[1.0] * 5])
    scores = channel_scores(model, ["0"], supplies((torch.ones(1, 2),), 1), importance="median")["0"]
    assert scores.argsort().tolist()[:2] == [0, 1]
    assert scores.argmax() == 3
    distances = torch.cdist(model[0].weight.detach(), model[0].weight.detach()).sum(1)
    torch.testing.assert_close(scores, distances)


def test_l1_counts_many_small_weights_more_than_magnitude_does() -> None:
    """The sum of sizes and the sum of squares order channels differently."""
    model = two_layers([[1.0, 1.0, 1.0], [2.0, 0.0, 0.0]], [[0.0, 0.0]])
    given = supplies((torch.ones(1, 3),), 1)
    scores = {name: channel_scores(model, ["0"], given, importance=name)["0"] for name in ("l1", "magnitude")}
    assert scores["l1"].argmin() == 1
    assert scores["magnitude"].argmin() == 0


def test_bn_scale_is_the_size_of_the_scales() -> None:
    """Signs do not count, and neither do the weights of convolutions."""
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.Flatten()).eval()
    model[1].weight.data = torch.tensor([-3.0, 1.0, 2.0])
    scores = channel_scores(model, ["0"], Supplies(examples=IMAGES, calibration=()), importance="bn_scale")["0"]
    torch.testing.assert_close(scores / scores[1], torch.tensor([3.0, 1.0, 2.0]))


def test_bn_scale_needs_batch_norms() -> None:
    """A group without any is infeasible, with its name."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(InfeasibleError, match="needs batch norms, and the group of '0' has none") as caught:
        channel_scores(model, ["0"], Supplies(examples=(torch.ones(1, 3),), calibration=()), importance="bn_scale")
    assert caught.value.rung == "build"


@pytest.mark.parametrize("importance", FROM_GRADIENTS)
def test_gradients_need_batches_and_a_finite_loss(importance: str) -> None:
    """What is missing is said, at the rung of building."""
    model, given = residual(), supplies(IMAGES, 10)
    with pytest.raises(InfeasibleError, match="needs batches of training data") as caught:
        channel_scores(model, ["stem.0"], replace(given, batches=()), importance=importance)
    assert caught.value.rung == "build"

    def infinite(network: nn.Module, batch: Batch) -> Tensor:
        return given.loss(network, batch) / 0

    with pytest.raises(InfeasibleError, match=r"needs a finite loss .* got inf") as caught:
        channel_scores(model, ["stem.0"], replace(given, loss=infinite), importance=importance)
    assert caught.value.rung == "build"


@pytest.mark.parametrize("importance", FROM_GRADIENTS)
def test_gradients_are_of_the_unpruned_network(importance: str) -> None:
    """Groups that are pruned in one go lose what their scores in the whole network say."""
    model, given = residual(), supplies(IMAGES, 10)
    names = [group.name for group in inspect(model, IMAGES).groups]
    scores = channel_scores(model, names, given, importance=importance)
    pruned = remove_channels(model, dict.fromkeys(names, 3), IMAGES, importance=importance, supplies=given)
    for name, score in scores.items():
        owner = name.replace("conv", "bn") if "conv" in name else "stem.1"
        kept = score.argsort(stable=True)[-3:].sort().values
        before, after = (m.get_submodule(owner).weight for m in (model, pruned))
        assert torch.equal(before[kept], after)


def test_unknown_importance_is_infeasible() -> None:
    """A name that is none of the methods' ends at the rung of building."""
    model = residual()
    graph = dependency_graph(model, IMAGES)
    with pytest.raises(InfeasibleError, match=r"one of magnitude, l1, .*, got 'luck'") as caught:
        scorer("luck", model, graph, supplies(IMAGES, 10))
    assert caught.value.rung == "build"


class Joined(nn.Module):
    """Two convolutions side by side, one of them with a depthwise one behind it, and a third that reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(2, 3, 1)
        self.depthwise = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.right = nn.Conv2d(2, 4, 1)
        self.head = nn.Conv2d(7, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 2, 2, 2) to (N, 2)."""
        both = torch.cat([self.depthwise(self.left(x)), self.right(x)], 1)
        out: Tensor = self.head(both).flatten(1)
        return out


@pytest.mark.parametrize(("name", "columns"), [("left", range(3)), ("right", range(3, 7))])
def test_parts_say_where_channels_are(name: str, columns: range) -> None:
    """What reads joined channels has them at an offset; depthwise convolutions write as well."""
    model = Joined()
    graph, root = dependency_graph(model, (torch.ones(1, 2, 2, 2),)), model.get_submodule(name)
    group = group_slices(graph, channel_group(graph, root, list(range(len(columns)))))
    (reader,) = (part for part in group if part.reads)
    assert reader.layer is model.head
    assert reader.rows.tolist() == list(columns)
    assert reader.channels.tolist() == list(range(len(columns)))
    writers = {part.layer for part in group if not part.reads}
    assert writers == ({model.left, model.depthwise} if name == "left" else {model.right})


def test_parts_follow_a_channel_through_flattening() -> None:
    """A linear layer behind it reads each channel at every position."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 2))
    graph = dependency_graph(model, (torch.ones(1, 2, 2, 2),))
    (reader,) = (part for part in group_slices(graph, channel_group(graph, model[0], [0, 1, 2])) if part.reads)
    assert reader.rows.tolist() == list(range(12))
    assert reader.channels.tolist() == [i // 4 for i in range(12)]


@pytest.mark.parametrize("importance", OTHERS)
@pytest.mark.parametrize(("name", "offset"), [("left", 0), ("right", 3)])
def test_every_importance_sees_a_channel_among_joined_ones(importance: str, name: str, offset: int) -> None:
    """A channel that is zero everywhere scores least on either side of a concatenation."""
    model = Joined()
    with torch.no_grad():
        for layer in (model.left, model.depthwise) if name == "left" else (model.right,):
            layer.weight[2], layer.bias[2] = 0, 0
        model.head.weight[:, offset + 2] = 0
    given = supplies((torch.ones(1, 2, 2, 2),), 2)
    assert channel_scores(model, [name], given, importance=importance)[name].argmin() == 2
