"""Distances between outputs: what all have in common, and what each is for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from autocompress.studies.distance import Distance, Sigmoid, Softmax, SquaredError, where_it_counts

DISTANCES = [Softmax(), Softmax(axis=2), Softmax(axis=-1), Sigmoid(), SquaredError(), SquaredError(scale=0.3)]

shapes = st.tuples(st.integers(1, 4), st.integers(2, 5), st.integers(1, 5))
temperatures = st.floats(0.5, 10)


def two(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return outputs of a student and of its teacher."""
    generator = torch.Generator().manual_seed(seed)
    first, second = (3 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second


@pytest.mark.parametrize("distance", DISTANCES, ids=str)
@given(shape=shapes, temperature=temperatures)
def test_equal_outputs_have_no_distance(distance: Distance, shape: tuple[int, ...], temperature: float) -> None:
    """It is 0, with no gradient, for equal outputs, and not negative for others."""
    ours, theirs = two(shape)
    same = theirs.clone().requires_grad_()
    apart = distance(same, theirs, temperature)
    apart.backward()  # type: ignore[no-untyped-call]
    assert apart.shape == ()
    assert apart.item() == pytest.approx(0, abs=1e-9)
    assert same.grad is not None
    assert same.grad.abs().max().item() == pytest.approx(0, abs=1e-9)
    assert distance(ours, theirs, temperature).item() >= -1e-9


@pytest.mark.parametrize("distance", DISTANCES, ids=str)
@given(shape=shapes, times=st.integers(2, 5), temperature=temperatures)
def test_positions_and_examples_do_not_add_up(
    distance: Distance, shape: tuple[int, ...], times: int, temperature: float
) -> None:
    """The same outputs at more positions, or in a batch of more examples, are as far apart."""
    ours, theirs = (x.unsqueeze(-1) for x in two(shape))
    if isinstance(distance, Softmax) and distance.axis < 0:
        ours, theirs = (x.movedim(2, -1) for x in (ours, theirs))
    apart = distance(ours, theirs, temperature).item()
    for axis in {0, 1, 3} - {getattr(distance, "axis", 3) % 4}:
        more = [x.repeat_interleave(times, axis) for x in (ours, theirs)]
        if isinstance(distance, Softmax) or axis != 3:
            assert distance(more[0], more[1], temperature).item() == pytest.approx(apart, rel=1e-9)


@given(shape=shapes, temperature=temperatures, axis=st.integers(1, 2))
def test_a_constant_on_all_classes_is_no_difference(shape: tuple[int, ...], temperature: float, axis: int) -> None:
    """Softmax over an axis does not see what is added along it, another amount at each position."""
    ours, theirs = two(shape)
    added, other = (x.mean(axis, keepdim=True) for x in two(shape, seed=1))
    apart = Softmax(axis)(ours, theirs, temperature).item()
    assert Softmax(axis)(ours + 7 * added, theirs - other, temperature).item() == pytest.approx(apart, abs=1e-8)


@given(batch=st.integers(1, 5), classes=st.integers(2, 6), temperature=temperatures)
def test_of_one_answer_an_example_it_is_the_usual_one(batch: int, classes: int, temperature: float) -> None:
    """For (batch, classes) softmax is the Kullback–Leibler divergence's mean over the batch, times T²."""
    ours, theirs = two((batch, classes))
    logs = [functional.log_softmax(x / temperature, 1) for x in (ours, theirs)]
    usual = functional.kl_div(logs[0], logs[1], reduction="batchmean", log_target=True) * temperature**2
    assert Softmax()(ours, theirs, temperature).item() == pytest.approx(usual.item(), abs=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_softmax_is_that_of_hinton(temperature: float) -> None:
    """The distance is T² Σ p log(p / q), averaged over the batch."""
    student, teacher = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]), np.array([[2.0, 0.5, 0.0], [1.0, -1.0, 0.0]])
    p, q = (np.exp(z / temperature) / np.exp(z / temperature).sum(1, keepdims=True) for z in (teacher, student))
    expected = temperature**2 * (p * np.log(p / q)).sum() / 2
    assert Softmax()(torch.tensor(student), torch.tensor(teacher), temperature).item() == pytest.approx(expected)


@given(temperature=temperatures, seed=st.integers(0, 20))
def test_a_logit_is_a_choice_between_two(temperature: float, seed: int) -> None:
    """The sigmoid of z is the softmax of (z, 0), and its distance is that of two classes."""
    ours, theirs = two((4, 1), seed)
    both = [torch.cat([x, torch.zeros_like(x)], 1) for x in (ours, theirs)]
    expected = Softmax()(both[0], both[1], temperature).item()
    assert Sigmoid()(ours, theirs, temperature).item() == pytest.approx(expected, abs=1e-9)
    assert Sigmoid(scale=3)(ours, theirs, temperature).item() == pytest.approx(3 * expected, abs=1e-8)


@pytest.mark.parametrize("distance", DISTANCES, ids=str)
def test_what_the_loss_leaves_out_does_not_count(distance: Distance) -> None:
    """Without the positions whose gradient is 0 the distance is that of the others, and pulls at the others only."""
    axis = getattr(distance, "axis", 1)
    ours, theirs = (x.movedim(1, axis) if axis in (2, -1) else x for x in two((3, 4, 6)))
    position = 1 if axis in (2, -1) else 2
    gradient = torch.ones_like(ours)
    gradient.narrow(position, 4, 2).zero_()
    ours.narrow(position, 4, 2).add_(9).clamp_(max=10)
    ours.requires_grad_()
    apart = where_it_counts(distance, ours, theirs, 2.0, gradient)
    rest = [x.narrow(position, 0, 4) for x in (ours, theirs)]
    assert apart.item() == pytest.approx(distance(rest[0], rest[1], 2.0).item())
    (pull,) = torch.autograd.grad(apart, ours)
    assert pull.narrow(position, 4, 2).abs().max().item() == pytest.approx(0, abs=1e-12)
    assert pull.narrow(position, 0, 4).abs().max() > 0


def test_examples_without_a_label_count() -> None:
    """Where each example has one answer, the teacher's counts whether the loss looks at it or not."""
    ours, theirs = two((4, 3))
    apart = where_it_counts(Softmax(), ours, theirs, 1.0, torch.zeros_like(ours))
    assert apart.item() == pytest.approx(Softmax()(ours, theirs, 1.0).item())


def test_certain_answers_count() -> None:
    """A sigmoid that is right beyond what float32 can tell has no gradient, and is not left out for that."""
    ours, theirs = torch.full((1, 1, 4), 20.0), torch.full((1, 1, 4), -20.0)
    assert where_it_counts(Sigmoid(), ours, theirs, 1.0, torch.zeros_like(ours)).item() > 10


def test_a_batch_that_is_left_out_has_no_distance() -> None:
    """Where the loss looks at nothing there is nothing to learn, and no division by 0."""
    ours, theirs = two((2, 3, 4))
    assert where_it_counts(Softmax(), ours, theirs, 1.0, torch.zeros_like(ours)).item() == 0


@pytest.mark.parametrize("distance", DISTANCES, ids=str)
def test_distances_travel_to_workers(distance: Distance) -> None:
    """A distance can be pickled and is equal afterwards."""
    assert pickle.loads(pickle.dumps(distance)) == distance
