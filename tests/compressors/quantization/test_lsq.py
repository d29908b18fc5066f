"""Steps that are trained: their gradients are those of the paper, and they stay positive."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.compressors.quantization.lsq import LearnedStep, round_learned

steps = st.floats(1e-4, 10)
tops = st.sampled_from([7, 127])
grids = st.sampled_from([(-7, 7), (-127, 127), (0, 255), (-40, 215)])


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), steps, grids)
def test_gradients_are_those_of_the_paper(numbers: list[float], step: float, bounds: tuple[int, int]) -> None:
    """A number inside of the range gives round(v) − v to the step, one beyond it the bound; those inside get theirs."""
    x = torch.tensor(numbers, requires_grad=True)
    s = torch.tensor(step, requires_grad=True)
    round_learned(x, s, bounds, len(numbers)).sum().backward()
    v = x.detach() / s.detach()
    inside = (v >= bounds[0]) & (v <= bounds[1])
    top = max(map(abs, bounds))
    expected = torch.where(inside, v.round() - v, v.clamp(*bounds)).sum() / math.sqrt(len(numbers) * top)
    assert s.grad is not None
    torch.testing.assert_close(s.grad, expected, rtol=1e-3, atol=1e-3)
    assert x.grad is not None
    clear = ((v - bounds[0]).abs() > 1e-3) & ((v - bounds[1]).abs() > 1e-3)
    torch.testing.assert_close(x.grad[clear], inside[clear].float(), rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30), steps, tops)
def test_numbers_land_on_the_grid(numbers: list[float], step: float, top: int) -> None:
    """What comes out are whole multiples of the step, at most top of them, and the nearest where nothing is clipped."""
    x = torch.tensor(numbers)
    levels = round_learned(x, torch.tensor(step), (-top, top), 1) / step
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert levels.abs().max() <= top + 1e-3
    inside = x.abs() <= top * step
    assert (levels - x / step)[inside].abs().max().nan_to_num() <= 0.5 + 1e-3 if inside.any() else True


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=5), st.floats(-1e6, 1e6))
def test_steps_stay_positive(first: list[float], change: float) -> None:
    """However far training moves a factor, the step is above 0."""
    step = LearnedStep(torch.tensor(first))
    assert torch.equal(step(), torch.tensor(first))
    with torch.no_grad():
        step.factor.add_(change)
    assert (step() > 0).all()


def test_least_squares_are_learned() -> None:
    """Gradient descent on the squared error finds a step that clips outliers, far below the largest number."""
    torch.manual_seed(0)
    x = torch.randn(4096)
    x[0] = 40
    step = LearnedStep(x.abs().max() / 7)
    optimizer = torch.optim.Adam(step.parameters(), lr=0.02)
    errors = []
    for _ in range(150):
        optimizer.zero_grad()
        error = (round_learned(x, step(), (-7, 7), 4096) - x).square().mean()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.5 * errors[0]
    assert float(step().detach()) < 0.5 * 40 / 7
