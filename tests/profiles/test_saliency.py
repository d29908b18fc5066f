"""What gradients tell of the choices that were not tried."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.compressors.pipeline import space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.evaluators import runtimes
from autocompress.profiles.saliency import ENOUGH, saliencies, saliency_of, stand_in
from autocompress.profiles.sensitivity import middle, sensitivities
from autocompress.spaces.candidate import BITS, PRUNING_RATIO
from autocompress.spaces.layers import Group, Network
from autocompress.spaces.space import Choice, Space
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

pytestmark = pytest.mark.usefixtures("one_thread")

POSITIVE = st.floats(1e-3, 1e3)


def test_the_saliency_of_a_linear_layer_is_exact() -> None:
    """With one example a batch the signs cancel out: each weight counts with its own square times its input's."""
    layer = nn.Linear(3, 5)
    inputs = torch.randn(4, 1, 3)
    found = saliencies(nn.Sequential(layer), [(x,) for x in inputs])
    weights = (layer.weight.detach().square().sum(0) * inputs.square().sum((0, 1))).sum()
    biases = len(inputs) * layer.bias.detach().square().sum()
    assert found == {"0": pytest.approx(float(weights + biases), rel=1e-5)}


def test_saliencies_leave_the_network_as_it_was() -> None:
    """No gradient is kept, and the same seed tells the same."""
    model = ResidualNet((8,), (1,)).eval()
    batches = [(torch.randn(4, 1, 8, 8),)]
    assert saliencies(model, batches) == saliencies(model, batches)
    assert all(p.grad is None for p in model.parameters())


def test_a_group_is_as_salient_as_its_layers() -> None:
    """What is pruned is all layers that lose channels together; what has other bits is one layer."""
    network = Network(layers=(), groups=(Group(name="a", channels=8, members=("a", "b")),))
    by_layer = {"a": 1.0, "b": 2.0}
    pruned, rounded = (Choice(axis=axis, target="a", levels=(0, 1), neutral=0) for axis in (PRUNING_RATIO, BITS))
    assert saliency_of(pruned, by_layer, network) == 3.0
    assert saliency_of(rounded, by_layer, network) == 1.0


@given(st.lists(POSITIVE, min_size=ENOUGH, max_size=9, unique=True), POSITIVE, st.floats(0, 1), POSITIVE)
def test_a_power_law_is_found_again(known: list[float], factor: float, power: float, asked: float) -> None:
    """Damages that are a power of the saliency are predicted as they are."""
    tried = [(saliency, factor * saliency**power) for saliency in known]
    if max(known) > 1.1 * min(known):
        assert stand_in(tried, asked) == pytest.approx(factor * asked**power, rel=1e-3)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=ENOUGH, max_size=9), POSITIVE, POSITIVE)
def test_more_salient_choices_are_never_thought_milder(
    tried: list[tuple[float, float]], one: float, other: float
) -> None:
    """Whatever was tried, the predicted damage does not fall with the saliency, and does not grow faster than it."""
    low, high = sorted((one, other))
    mild, strong = stand_in(tried, low), stand_in(tried, high)
    assert mild <= strong * (1 + 1e-9)
    assert strong / mild <= high / low * (1 + 1e-9)


@pytest.mark.parametrize("tried", [[], [(1.0, math.inf)], [(1.0, 2.0), (3.0, 4.0), (0.0, 9.0)]])
def test_the_median_stands_in_where_little_is_known(tried: list[tuple[float, float]]) -> None:
    """Too few that were tried tell no law; where none could be applied, the others cannot be either."""
    finite = [damage for _, damage in tried if math.isfinite(damage)]
    assert stand_in(tried, 2.0) == (statistics.median(finite) if finite else math.inf)


def test_gradients_tell_more_than_the_median() -> None:
    """Of a residual network's layers in INT8, one half tells what the other does, within less than its median would."""
    torch.manual_seed(0)
    images = [(torch.randn(16, 1, 8, 8), torch.zeros(16, dtype=torch.long)) for _ in range(2)]
    task = Task(ResidualNet((16, 32, 64), (2, 2, 2)).eval(), images[0][0][:1], images, images)
    network, supplies = inspect(task.model, task.examples), supplies_of(task)
    choices = tuple(space_of(network, runtimes.load("fake").capabilities).on(BITS))
    with sensitivities(task.model, supplies, Space(choices), lambda text: None) as damages:
        found = damages()
    by_layer = saliencies(task.model, supplies.calibration)
    known = [(saliency_of(c, by_layer, network), found[c.name][middle(c)]) for c in choices]
    tried, rest = known[::2], known[1::2]
    median = statistics.median(damage for _, damage in tried)
    told = [abs(math.log(stand_in(tried, saliency) / damage)) for saliency, damage in rest]
    assert statistics.mean(told) < 0.8 * statistics.mean(abs(math.log(median / damage)) for _, damage in rest)
