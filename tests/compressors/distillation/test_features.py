"""Intermediate features: where two networks are compared, and how."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.compressors.distillation.features import (
    FeatureLoss,
    Point,
    Taps,
    as_deep,
    called,
    find_points,
    spread,
)
from autocompress.compressors.modules import run
from autocompress.compressors.pruning.prune import remove_channels
from autocompress.compressors.quantization.quantize import Quantize
from autocompress.compressors.technique import Supplies
from autocompress.spaces.candidate import BITS, Candidate
from autocompress.studies.residual import ResidualNet

IMAGES = torch.randn(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
SAME = [Point("layer", "layer")]


def net(*blocks: int) -> ResidualNet:
    """Return a small residual network."""
    return ResidualNet((8, 16), blocks or (1, 2)).eval()


@given(st.integers(0, 50), st.integers(1, 8))
def test_points_are_spread_evenly_up_to_the_last(length: int, most: int) -> None:
    """There are as many as are wanted or exist; gaps differ by one at most, and the last position is one of them."""
    positions = spread(length, most)
    assert len(positions) == min(length, most)
    gaps = {after - before for before, after in zip([-1, *positions], positions, strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert positions[-1:] == [length - 1] * bool(length)


@given(st.integers(1, 30), st.integers(1, 30))
def test_the_same_depth_is_within_and_ordered(length: int, other: int) -> None:
    """Positions map into the other sequence in order, the last one to the last one; equal lengths to themselves."""
    mapped = [as_deep(i, length, other) for i in range(length)]
    assert mapped == sorted(mapped)
    assert mapped[0] >= 0
    assert mapped[-1] == other - 1
    assert [as_deep(i, length, length) for i in range(length)] == list(range(length))


def test_layers_of_one_name_are_paired_in_order_of_execution() -> None:
    """Four of ten layers are compared, the head is not among them, and each is paired with its namesake."""
    points = find_points(net(), net(), (IMAGES,))
    order = called(net(), (IMAGES,), (nn.Conv2d, nn.Linear))
    assert len(points) == 4
    assert all(point.student == point.teacher for point in points)
    assert [order.index(point.teacher) for point in points] == sorted(order.index(p.teacher) for p in points)
    assert points[-1].teacher == order[-2]
    assert order[-1] == "head"


def test_what_takes_a_layers_place_is_paired_with_it() -> None:
    """A quantized layer, and a sequence of factors, keep the layer's name and are compared to it."""
    teacher = net()
    supplies = Supplies(examples=(IMAGES[:1],), calibration=[(IMAGES,)])
    names = called(teacher, (IMAGES,), (nn.Conv2d,))
    student = Quantize().apply(teacher, Candidate({BITS: dict.fromkeys(names, 8)}), supplies)
    student.stages[0][0].conv1 = nn.Sequential(nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 3, padding=1))
    points = find_points(student, teacher, (IMAGES,))
    assert points == find_points(teacher, teacher, (IMAGES,))
    taps = Taps(points)
    with taps.on(student, teacher):
        run(student, (IMAGES,))
        run(teacher, (IMAGES,))
    assert [ours.shape for ours, _ in taps.pairs()] == [theirs.shape for _, theirs in taps.pairs()]


def test_networks_of_other_names_are_paired_by_depth() -> None:
    """A student of another architecture is compared at the same relative depths, up to its last layer but one."""
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(256, 10))
    points = find_points(student, net(), (IMAGES,))
    order = called(net(), (IMAGES,), (nn.Conv2d,))
    assert [point.student for point in points] == ["0", "0", "2", "2"]
    assert points[-1] == Point("2", order[-1])


def test_no_hook_stays_and_teachers_features_have_no_gradients() -> None:
    """After the context nothing is recorded any more; gradients flow to the student alone."""
    student, teacher = net(), net()
    taps = Taps(find_points(student, teacher, (IMAGES,)))
    with taps.on(student, teacher):
        student(IMAGES)
        teacher(IMAGES)
    first = taps.pairs()[0][0]
    assert all(ours.requires_grad and not theirs.requires_grad for ours, theirs in taps.pairs())
    student(IMAGES + 1)
    assert taps.pairs()[0][0] is first
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())


@pytest.mark.parametrize("shape", [(6, 5), (6, 7, 5), (6, 5, 4, 4)])
@given(factor=st.floats(1e-3, 1e3))
def test_the_loss_is_relative_to_the_teachers_variance(shape: tuple[int, ...], factor: float) -> None:
    """It is that of the textbook, 0 for equals, 1 for the mean, and does not depend on the scale of the features."""
    ours, theirs = torch.randn(shape), torch.randn(shape)
    loss = FeatureLoss(SAME, [(ours, theirs)])
    assert not list(loss.parameters())
    expected = (ours - theirs).square().mean() / theirs.var(correction=0)
    torch.testing.assert_close(loss([(ours, theirs)]), expected)
    torch.testing.assert_close(loss([(factor * ours, factor * theirs)]), expected, rtol=1e-3, atol=1e-5)
    assert loss([(theirs, theirs)]) == 0
    torch.testing.assert_close(loss([(theirs.mean().expand(shape), theirs)]), torch.ones(()))


@given(st.integers(3, 9))
def test_an_adapter_begins_with_the_best_linear_map(width: int) -> None:
    """Features that are a linear map of the student's cost nearly nothing from the start; adapters can be trained."""
    ours = torch.randn(40, width, 2, 2)
    theirs = nn.Conv2d(width, 12, 1)(ours).detach()
    loss = FeatureLoss(SAME, [(ours, theirs)])
    assert loss([(ours, theirs)]).item() < 1e-4
    assert [tuple(p.shape) for p in loss.parameters()] == [(12, width), (12,)]
    assert all(p.requires_grad for p in loss.parameters())


def test_no_namesakes_have_an_adapter() -> None:
    """Channels of two layers of different names mean different things even where there are as many."""
    features = torch.randn(9, 3)
    assert list(FeatureLoss([Point("a", "b")], [(features, features)]).parameters())
    assert not list(FeatureLoss(SAME, [(features, features)]).parameters())


def test_other_resolutions_are_averaged() -> None:
    """A student of half the resolution that computes the averages of its teacher's has no loss; tokens likewise."""
    fine = torch.randn(4, 3, 8, 8)
    coarse = fine.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5))
    assert FeatureLoss(SAME, [(coarse, fine)])([(coarse, fine)]).item() < 1e-10
    tokens = torch.randn(4, 6, 3)
    pooled = tokens.unflatten(1, (3, 2)).mean(2)
    assert FeatureLoss(SAME, [(pooled, tokens)])([(pooled, tokens)]).item() < 1e-10


def test_features_of_other_dimensions_are_left_out() -> None:
    """Maps and vectors cannot be compared; where nothing else is left, that is an error."""
    maps, vectors = torch.randn(4, 3, 8, 8), torch.randn(4, 3)
    loss = FeatureLoss([*SAME, *SAME], [(maps, vectors), (maps, maps)])
    assert loss([(maps, vectors), (maps, maps)]) == 0
    with pytest.raises(ValueError, match="same number of dimensions"):
        FeatureLoss(SAME, [(maps, vectors)])


def test_pruned_networks_learn_their_teachers_features() -> None:
    """Gradient steps on the loss of a pruned network and its adapters bring the features nearer, a dead channel too."""
    teacher = net()
    student = remove_channels(copy.deepcopy(teacher), {"stages.1.0.conv1": 8}, (IMAGES[:1],))
    taps = Taps(find_points(student, teacher, (IMAGES,)))
    losses = []
    with taps.on(student, teacher):
        run(student, (IMAGES,))
        run(teacher, (IMAGES,))
        loss = FeatureLoss(taps.points, taps.pairs())
        optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], lr=1e-3)
        for _ in range(15):
            student(IMAGES)
            value = loss(taps.pairs())
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]
