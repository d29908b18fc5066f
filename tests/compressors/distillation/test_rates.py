"""The learning rate over all phases of a training."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.compressors.distillation.schedule import Schedule


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(0.01, 8), st.integers(1, 40))
def test_phases_go_through_one_schedule(parts: list[int], epochs: float, batches: int) -> None:
    """Phase after phase has the rates that one training as long as all has, and each phase has a step at least."""
    shares = tuple(part / sum(parts) for part in parts)
    phases = [Schedule(epochs, shares, number).rates(batches) for number in range(len(parts))]
    steps = max(len(parts), round(epochs * batches))
    assert all(phases)
    assert list(itertools.chain(*phases)) == Schedule(steps / batches).rates(batches)


@pytest.mark.parametrize("steps", [*range(1, 13), 100])
def test_rate_rises_once_and_falls_to_nearly_nothing(steps: int) -> None:
    """No step is without a rate, and the last ones are the smallest after the largest."""
    rates = Schedule(1.0).rates(steps)
    top = rates.index(max(rates))
    assert len(rates) == steps
    assert all(0 < rate <= 1 for rate in rates)
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)
    assert rates[-1] < 1.5 / steps
