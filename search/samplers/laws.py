"""Models of the logarithms of costs, each fitted to all measurements, with their uncertainty.

Two kinds of model are accurate in different regions. A sum of parts extrapolates to points unlike everything measured.
A Gaussian process is accurate near measurements, whatever the reason, and knows how near they are. Both predict each
point, weighted by the precision that each one claims there and has shown so far (a generalised product of experts: Cao
and Fleet, 2014).
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
"""Number of trials that the prior on a model's standard deviations is worth."""

SLACK = 0.01
"""Added to the error that a model has shown, because with few trials some are right by chance."""

ROUNDS = 2
"""How often the sum of parts is fitted: its errors are those of a logarithm, around its previous prediction."""

LEAST = 0.5
"""Smallest prediction, as a share of the least measured value."""


class LatencyModel(Protocol):
    """Predicts the costs of points."""

    error: float
    """Mean difference of logarithms, with each trial predicted from the others."""

    doubt: float
    """Factor that turns its standard deviations into those of its errors."""

    def tell(self, points: Points) -> tuple[Numbers, Numbers]:
        """Return the logarithm of the cost and its standard deviation, each of shape (points,)."""
        ...


class Parts:
    """A sum of parts whose weights have a Gaussian prior around the profile's (Bayesian linear regression).

    Args:
        points: points with measured costs.
        costs: their costs, all positive.
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
    """A Gaussian process over the kinds of layers, around a trend of the logarithm.

    Args:
        points: points with measured costs.
        costs: their costs, all positive.
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
    """Several models combined into one.

    Args:
        laws: at least one.
        noise: relative standard deviation of a measurement.
        scale: the cost for which the models predict 1.

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
    """Return the mean of errors, with large ones capped at `FAR`; 0 if there are none."""
    return float(np.minimum(errors, FAR).mean()) if len(errors) else 0.0


def doubt(surprise: Numbers) -> float:
    """Return the factor for standard deviations, given each trial's error in standard deviations.

    A few trials say little, so `EXPECTED` trials with the expected error are added.
    """
    usual = float(np.quantile(np.abs(surprise), 0.68)) if len(surprise) else 1.0
    return float(np.sqrt((len(surprise) * usual**2 + EXPECTED) / (len(surprise) + EXPECTED)))
