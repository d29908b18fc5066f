"""Bayesian linear regression with a Gaussian prior, and its prediction of each value from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from .encoding import Numbers


@dataclass(frozen=True)
class Regression:
    """A fitted regression.

    Attributes:
        weights: mean of the posterior, shape (features,).
        prior: prior standard deviations of the weights, shape (features,).
        factor: lower Cholesky factor of the posterior's precision, for weights in units of their prior's spread.
        held_out: prediction of each value from the others, shape (values,); Allen's PRESS residuals, 1974.
        surprise: error of that prediction, in expected standard deviations, shape (values,).

    """

    weights: Numbers
    prior: Numbers
    factor: NDArray[Any]
    held_out: Numbers
    surprise: Numbers

    def spread(self, features: Numbers) -> Numbers:
        """Return the standard deviation of predicted means, shape (values,), without a value's own noise."""
        deviations = solve_triangular(self.factor, (features * self.prior).T, lower=True)
        spread: Numbers = np.sqrt((deviations**2).sum(axis=0))
        return spread


def regression(features: Numbers, values: Numbers, noise: Numbers, mean: Numbers, spread: Numbers) -> Regression:
    """Return the regression of values on features.

    Args:
        features: shape (values, features).
        values: the values to predict.
        noise: standard deviation of each value.
        mean: prior mean of the weights.
        spread: prior standard deviation of the weights.

    """
    design = features * spread / noise[:, None]
    rest = (values - features @ mean) / noise
    factor = cho_factor(np.eye(len(mean)) + design.T @ design, lower=True)
    solution = cho_solve(factor, design.T @ rest)
    leverage = np.einsum("ij,ji->i", design, cho_solve(factor, design.T))
    left = np.maximum(1 - leverage, 1e-3)
    residual = rest - design @ solution
    held_out = values - noise * residual / left
    return Regression(mean + spread * solution, spread, factor[0], held_out, -residual / np.sqrt(left))
