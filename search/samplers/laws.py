"""Laws that tell logarithms of costs, each from all that was measured, and how far each may be off.

Two kinds of law are right in different places. A sum of parts extends to what is unlike everything measured; a
Gaussian process is right near what was measured, whatever the reason, and knows where it is not near. Each point is
told by both, by the precision that each claims there and has shown (a generalised product of experts: Cao and Fleet,
2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from .encoding import Numbers
from .features import Points
from .gaussian_process import process
from .regression import regression

FAR = 0.5
"""Difference of logarithms beyond which a prediction is simply wrong."""

EXPECTED = 10
"""Trials that stand for what is believed of a law's standard deviations beforehand."""

SLACK = 0.01
"""What is added to the error that a law has shown: with few trials some are right by chance."""

ROUNDS = 2
"""How often the sum of parts is fitted: its errors are those of a logarithm, about what it told before."""

LEAST = 0.5
"""Share of the least that was measured under which nothing is told."""


class LatencyModel(Protocol):
    """Tells costs of points."""

    error: float
    """Mean difference of logarithms, where each trial was told from the others."""

    doubt: float
    """By what its standard deviations have to be multiplied to be those of its errors."""

    def tell(self, points: Points) -> tuple[Numbers, Numbers]:
        """Return the logarithm of the cost and its standard deviation, each of shape (points,)."""
        ...


class Parts:
    """A sum of parts whose weights have a Gaussian prior around the profile's (Bayesian linear regression).

    Args:
        points: whose costs were measured.
        costs: these, all positive.
        noise: relative standard deviation of each.

    """

    def __init__(self, points: Points, costs: Numbers, noise: Numbers) -> None:
        parts, (mean, spread) = points.parts, points.features.prior
        told = costs
        for _ in range(ROUNDS):
            values = told * (1 + np.log(costs / told))
            self._fit = regression(parts, values, noise * told, mean, spread)
            errors = np.abs(self._fit.held_out - values) / told
            told = np.maximum(parts @ self._fit.weights, LEAST * costs)
        self.error, self.doubt = typical_error(errors), doubt(self._fit.surprise)
        self._least = LEAST * costs.min() if len(costs) else 1e-9

    def tell(self, points: Points) -> tuple[Numbers, Numbers]:
        """Return the logarithm of the cost and its standard deviation, each of shape (points,)."""
        told = np.maximum(points.parts @ self._fit.weights, self._least)
        return np.log(told), self._fit.spread(points.parts) / told


class Likeness:
    """A Gaussian process over the kinds of layers, about a trend of the logarithm.

    Args:
        points: whose costs were measured.
        costs: these, all positive.
        noise: relative standard deviation of each.
        trend: returns the features of the trend of points.
        prior: mean and standard deviation of the trend's weights.

    """

    def __init__(
        self,
        points: Points,
        costs: Numbers,
        noise: Numbers,
        trend: Callable[[Points], Numbers],
        prior: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        self._trend = trend
        mean, spread = map(np.array, prior)
        self._process = process(trend(points), points.places, np.log(costs), noise, mean, spread)
        self.error = typical_error(np.abs(self._process.held_out - np.log(costs)))
        self.doubt = doubt(self._process.surprise)

    def tell(self, points: Points) -> tuple[Numbers, Numbers]:
        """Return the logarithm of the cost and its standard deviation, each of shape (points,)."""
        return self._process.tell(self._trend(points), points.places)


class Blend:
    """Several laws as one.

    Args:
        laws: at least one.
        noise: relative standard deviation of a measurement.
        scale: what the laws' cost of one is.

    """

    def __init__(self, laws: Sequence[LatencyModel], noise: float, scale: float = 1.0) -> None:
        self._laws, self._noise, self._shift = laws, noise, float(np.log(scale))
        self._errors = np.array([[law.error + SLACK] for law in laws])
        self._doubts = np.array([[law.doubt] for law in laws])

    def tell(self, points: Points) -> tuple[Numbers, Numbers]:
        """Return the logarithm of the cost, and the standard deviation of its measurement, each of shape (points,)."""
        means, spreads = (np.stack(each) for each in zip(*(law.tell(points) for law in self._laws), strict=True))
        spreads = self._doubts * np.hypot(spreads, self._noise)
        weights = 1 / (spreads * self._errors) ** 2
        weights /= weights.sum(axis=0)
        mean = (weights * means).sum(axis=0)
        spread = np.sqrt((weights * (spreads**2 + (means - mean) ** 2)).sum(axis=0))
        return mean + self._shift, spread


def typical_error(errors: Numbers) -> float:
    """Return the mean of errors, those that are far off held at `FAR`; 0 where there is none."""
    return float(np.minimum(errors, FAR).mean()) if len(errors) else 0.0


def doubt(surprise: Numbers) -> float:
    """Return by what standard deviations have to be multiplied, given how many of them each trial was off by.

    A few trials say little: so it is as if `EXPECTED` had been off by just what was to be expected.
    """
    usual = float(np.quantile(np.abs(surprise), 0.68)) if len(surprise) else 1.0
    return float(np.sqrt((len(surprise) * usual**2 + EXPECTED) / (len(surprise) + EXPECTED)))
