"""Regression and Gaussian process: what they say of each value from the others, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.search.samplers.gaussian_process import process
from autocompress.search.samplers.laws import Blend, doubt
from autocompress.search.samplers.regression import regression

RNG = np.random.default_rng(0)
COUNT, FEATURES = 12, 4
TREND = np.concatenate([np.ones((COUNT, 1)), RNG.standard_normal((COUNT, FEATURES - 1))], axis=1)
PLACES, VALUES = RNG.standard_normal((COUNT, 2)), RNG.standard_normal(COUNT)
NOISE = RNG.uniform(0.05, 0.2, COUNT)
MEAN, SPREAD = np.array([0.5, 0.0, 1.0, 0.0]), np.array([2.0, 0.5, 0.5, 1.0])


@pytest.mark.parametrize("left_out", [0, 5, 11])
def test_held_out_values_are_those_of_a_fit_without_them(left_out: int) -> None:
    """What both say of a value from the others, and by how many deviations it is off, is what leaving it out gives."""
    rest = np.arange(COUNT) != left_out
    one = slice(left_out, left_out + 1)
    linear = regression(TREND, VALUES, NOISE, MEAN, SPREAD)
    without = regression(TREND[rest], VALUES[rest], NOISE[rest], MEAN, SPREAD)
    told, spread = TREND[one] @ without.weights, without.spread(TREND[one])
    assert linear.held_out[left_out] == pytest.approx(told[0])
    assert linear.surprise[left_out] == pytest.approx(
        (told[0] - VALUES[left_out]) / np.hypot(spread[0], NOISE[left_out])
    )
    smooth = process(TREND, PLACES, VALUES, NOISE, MEAN, SPREAD)
    without = process(TREND[rest], PLACES[rest], VALUES[rest], NOISE[rest], MEAN, SPREAD)
    told, spread = without.tell(TREND[one], PLACES[one])
    assert smooth.held_out[left_out] == pytest.approx(told[0])
    assert smooth.surprise[left_out] == pytest.approx(
        (told[0] - VALUES[left_out]) / np.hypot(spread[0], NOISE[left_out])
    )


def test_a_process_is_surest_where_something_was_measured() -> None:
    """Near what was measured it says that, surely; far off it says what the trend does, with the prior's spread."""
    smooth = process(TREND, PLACES, VALUES, np.full(COUNT, 0.01), MEAN, SPREAD)
    told, near = smooth.tell(TREND, PLACES)
    _, far = smooth.tell(TREND, PLACES + 50.0)
    assert told == pytest.approx(VALUES, abs=0.2)
    assert (near < 0.05).all()
    assert (far > 0.4).all()


def test_surprise_widens_what_is_told() -> None:
    """Errors twice as large as expected come to double the deviations; a few trials say little of that."""
    assert doubt(np.zeros(0)) == 1.0
    few, many = (doubt(2.0 * RNG.standard_normal(count)) for count in (3, 2_000))
    assert abs(few - 1) < abs(many - 1)
    assert many == pytest.approx(2.0, rel=0.1)


class Says:
    """A law that says the same of every point."""

    def __init__(self, mean: float, spread: float, error: float) -> None:
        self.mean, self.spread, self.error, self.doubt = mean, spread, error, 1.0

    def tell(self, points: object) -> tuple[np.ndarray, np.ndarray]:
        """Return it."""
        return np.array([self.mean]), np.array([self.spread])


def test_a_blend_believes_the_surer_and_the_better_law() -> None:
    """It lies between its laws, nearer to the surer and to the better one, and is less sure if they differ."""
    agree = Blend((Says(1.0, 0.1, 0.05), Says(1.0, 0.1, 0.05)), 0.01).tell(None)
    differ = Blend((Says(0.0, 0.1, 0.05), Says(1.0, 0.1, 0.05)), 0.01).tell(None)
    surer = Blend((Says(0.0, 0.1, 0.05), Says(1.0, 0.3, 0.05)), 0.01).tell(None)
    better = Blend((Says(0.0, 0.1, 0.05), Says(1.0, 0.1, 0.3)), 0.01).tell(None)
    assert agree[0] == pytest.approx(1.0)
    assert differ[0] == pytest.approx(0.5)
    assert differ[1] > 3 * agree[1]
    assert 0 < surer[0] < 0.2
    assert 0 < better[0] < 0.2
