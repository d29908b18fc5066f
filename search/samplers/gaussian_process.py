"""A Gaussian process: a trend, and what points have in common that are alike (Rasmussen and Williams, 2006)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from .encoding import Numbers

AMPLITUDE, LENGTH = 0.5, 2.0
"""Standard deviation of what the trend does not tell, and the distance over which it changes."""


@dataclass(frozen=True)
class Process:
    """What was learned.

    Attributes:
        trend: features of the known values, in units of their prior's spread, shape (values, features).
        places: where these values lie, shape (values, dimensions).
        prior: mean and standard deviation of the trend's weights, each of shape (features,).
        factor: lower Cholesky factor of the values' covariance.
        weights: of the known values, shape (values,).
        held_out: what is said of each value from the others, shape (values,).
        surprise: by how much that is off, in standard deviations of what was to be expected, shape (values,).

    """

    trend: Numbers
    places: Numbers
    prior: tuple[Numbers, Numbers]
    factor: NDArray[Any]
    weights: Numbers
    held_out: Numbers
    surprise: Numbers

    def tell(self, trend: Numbers, places: Numbers) -> tuple[Numbers, Numbers]:
        """Return mean and standard deviation of points, each of shape (points,)."""
        mean, spread = self.prior
        scaled = trend * spread
        shared = _covariance(scaled, self.trend, places, self.places)
        explained = (solve_triangular(self.factor, shared.T, lower=True) ** 2).sum(axis=0)
        variance = (scaled**2).sum(axis=1) + AMPLITUDE**2 - explained
        return trend @ mean + shared @ self.weights, np.sqrt(np.maximum(variance, 0.0))


def process(
    trend: Numbers, places: Numbers, values: Numbers, noise: Numbers, mean: Numbers, spread: Numbers
) -> Process:
    """Return what some values tell of all others.

    Args:
        trend: features of which a value is a weighted sum but for what is local, shape (values, features).
        places: where the values lie, shape (values, dimensions).
        values: what is to be told.
        noise: standard deviation of each value.
        mean: of the trend's weights, before anything is known.
        spread: standard deviation of these, likewise.

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
