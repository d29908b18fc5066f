"""Bayesian linear regression with a Gaussian prior, and what it says of each value from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from .tables import Numbers


@dataclass(frozen=True)
class Regression:
    """What was learned.

    Attributes:
        weights: mean of the posterior, shape (features,).
        factor: lower Cholesky factor of the posterior's precision, of weights in units of their prior's spread.
        held_out: what is said of each value from the others, shape (values,); Allen's PRESS residuals, 1974.

    """

    weights: Numbers
    factor: NDArray[Any]
    held_out: Numbers


def regression(features: Numbers, values: Numbers, noise: Numbers, mean: Numbers, spread: Numbers) -> Regression:
    """Return the regression of values on features.

    Args:
        features: shape (values, features).
        values: what is to be told.
        noise: standard deviation of each value.
        mean: of the weights, before anything is known.
        spread: standard deviation of the weights, likewise.

    """
    design = features * spread / noise[:, None]
    rest = (values - features @ mean) / noise
    factor = cho_factor(np.eye(len(mean)) + design.T @ design, lower=True)
    solution = cho_solve(factor, design.T @ rest)
    leverage = np.einsum("ij,ji->i", design, cho_solve(factor, design.T))
    held_out = values - noise * (rest - design @ solution) / np.maximum(1 - leverage, 1e-3)
    return Regression(mean + spread * solution, factor[0], held_out)
