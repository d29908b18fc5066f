"""A Gaussian process: a trend, plus a part that similar points have in common (Rasmussen and Williams, 2006)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from .encoding import Numbers

AMPLITUDE, LENGTH = 0.5, 2.0
"""Standard deviation of the part that the trend does not explain, and the distance over which it changes."""


@dataclass(frozen=True)
class Process:
    """A fitted Gaussian process.

    Attributes:
        trend: features of the known values, in units of their prior's spread, shape (values, features).
        places: positions of these values, shape (values, dimensions).
        prior: mean and standard deviation of the trend's weights, each of shape (features,).
        factor: lower Cholesky factor of the values' covariance.
        weights: weights of the known values, shape (values,).
        held_out: prediction of each value from the others, shape (values,).
        surprise: error of that prediction, in expected standard deviations, shape (values,).

    """

    trend: Numbers
    places: Numbers
    prior: tuple[Numbers, Numbers]
    factor: NDArray[Any]
    weights: Numbers
    held_out: Numbers
    surprise: Numbers

    def tell(self, trend: Numbers, places: Numbers) -> tuple[Numbers, Numbers]:
        """Return mean and standard deviation at points, each of shape (points,)."""
        mean, spread = self.prior
        scaled = trend * spread
        shared = _covariance(scaled, self.trend, places, self.places)
        explained = (solve_triangular(self.factor, shared.T, lower=True) ** 2).sum(axis=0)
        variance = (scaled**2).sum(axis=1) + AMPLITUDE**2 - explained
        return trend @ mean + shared @ self.weights, np.sqrt(np.maximum(variance, 0.0))


def process(
    trend: Numbers, places: Numbers, values: Numbers, noise: Numbers, mean: Numbers, spread: Numbers
) -> Process:
    """Return a Gaussian process fitted to some values.

    Args:
        trend: features of the trend, a weighted sum plus a local part, shape (values, features).
        places: positions of the values, shape (values, dimensions).
        values: the values to predict.
        noise: standard deviation of each value.
        mean: prior mean of the trend's weights.
        spread: prior standard deviation of the trend's weights.

    """
    scaled = trend * spread
    factor, _ = cho_factor(_covariance(scaled, scaled, places, places) + np.diag(noise**2), lower=True)
    rest = values - trend @ mean
    inverse = cho_solve((factor, True), np.eye(len(values)))
    weights = inverse @ rest
    precision = np.maximum(np.diag(inverse), 1e-12)
    held_out, surprise = values - weights / precision, -weights / np.sqrt(precision)
    return Process(scaled, places, (mean, spread), factor, weights, held_out, surprise)


def _covariance(trend: Numbers, known_trend: Numbers, places: Numbers, known: Numbers) -> Numbers:
    """Return the prior's covariance between points, shape (points, values)."""
    squares = (places**2).sum(axis=1)[:, None] + (known**2).sum(axis=1) - 2 * places @ known.T
    shared: Numbers = trend @ known_trend.T + AMPLITUDE**2 * np.exp(-0.5 * np.maximum(squares, 0.0) / LENGTH**2)
    return shared
