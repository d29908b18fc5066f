"""Predicts the lost accuracy of candidates: a Bayesian linear model on the sensitivities of a profile.

Sensitivities show which choices hurt, but not how much accuracy remains after training, nor how damages add up. So the
model has several forms: damages that add up, or the largest one decides; sensitivities that are trusted, or not. The
form that predicts held-out trials best is used (leave-one-out residuals: Allen's PRESS, 1974). Its coefficients have a
posterior, from which samples are drawn (Thompson, Biometrika 1933).

Damage is −log of the remaining share of the baseline's accuracy.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from ...spaces.space import Choice
from .encoding import EncodedSpace, LevelArray, Numbers
from .regression import regression

NOISE = 0.004
"""Standard deviation of the damage from training and measuring alone."""

MISFIT = 0.12
"""Relative error of the model: it need not be exact where damage is large."""

LEAST_LEFT = 0.02
"""Below this share of the accuracy, all losses count the same."""

SETTING = 0.02
"""Scale of a single setting's effect."""

HARM, PAIRS, NEAR, MOST = (0.7, 0.7), (0.15, 0.3), (0.1, 0.2), (0.2, 0.5)
"""Prior mean and standard deviation of the weights: of each choice's damage, of several choices for one part, of
successive parts, and of the largest damage, added to the sum.
"""

BEND, CONSTANT = (0.0, 0.25), (0.0, 1.0)
"""The same for another power of a choice's levels, and for what nothing explains."""

SLOPE, CURVE, OTHER = (0.0, 0.7), (1.0, 0.5), (0.3, 0.3)
"""The same for a numeric setting, by its position and the square of its position between least and most: the best value
is expected near the default, and extremes are bad. And for each other level of a non-numeric setting: the default was
chosen because it is good, and with few trials most others are worse.
"""

LEAST_HARM = 0.02
"""Least coefficient of a damage: taking something away never improves a network."""


@dataclass(frozen=True)
class Form:
    """How sensitivities become damage.

    Attributes:
        trust: power of the differences between the choices of an axis; with 0 all are alike, whatever their
            sensitivities.
        growth: power of the differences between a choice's levels.
        response: power of the damage that is summed; with 2 the largest damages decide.

    """

    trust: float
    growth: float
    response: float


FORMS = tuple(
    Form(trust, growth, response)
    for trust, (growth, response) in itertools.product((0.8, 0.0), ((1.0, 1.0), (0.5, 1.0), (1.0, 2.0)))
)


class DamageModel:
    """Predicts damage from levels.

    Args:
        tables: the space and its profile.

    """

    def __init__(self, tables: EncodedSpace) -> None:
        self.tables = tables
        self.harms = int(tables.compressing.sum())
        damage = np.maximum(tables.damage[tables.compressing], 0.0)
        middle = np.maximum(1, (tables.sizes[tables.compressing] - 1) // 2)
        middles = np.maximum(damage[np.arange(len(damage)), middle], 1e-9)
        axes = np.array([choice.axis for choice in tables.space.choices])[tables.compressing]
        self._typical = np.array([np.exp(np.log(middles[axes == axis]).mean()) for axis in axes])
        self._relative = middles / self._typical
        self._growth = damage / middles[:, None]
        self._parts = _parts(tables)
        self._settings = [_columns(choice) for choice in tables.space.choices if choice.neutral is None]
        self._about = [prior for columns in self._settings for prior in _priors(columns)]

    def fit(self, levels: LevelArray, damage: Numbers) -> Fitted:
        """Return the form of the model that predicts each of the points best from the others.

        Args:
            levels: shape (points, choices).
            damage: shape (points,).

        """
        return min((self._fit(form, levels, damage) for form in FORMS), key=lambda fitted: fitted.error)

    def _fit(self, form: Form, levels: LevelArray, damage: Numbers) -> Fitted:
        sigma = np.hypot(NOISE, MISFIT * damage)
        response = np.sign(damage) * np.abs(damage) ** form.response
        noise = form.response * np.maximum(np.abs(damage), 0.01) ** (form.response - 1) * sigma
        raw = self._harms(form, levels).sum(axis=1) / noise
        scale = max(float(raw @ (response / noise)) / max(float(raw @ raw), 1e-30), 1e-6)
        features = self.features(form, scale, levels)
        mean, spread = self._prior()
        fit = regression(features, response, noise, mean, spread)
        error = float(np.minimum(((_root(fit.held_out, form.response) - damage) / sigma) ** 2, 100).mean())
        return Fitted(self, form, scale, fit.weights, spread, fit.factor, error)

    def features(self, form: Form, scale: float, levels: LevelArray) -> Numbers:
        """Return the features of points, shape (points, features), in the unit of the response."""
        harms = scale * self._harms(form, levels)
        bends = harms * np.log(np.maximum(self._grown(levels), 1e-6))
        by_part = harms @ self._parts
        pairs = (np.sqrt(harms) @ self._parts) ** 2 - by_part
        near = np.sqrt(by_part[:, 1:] * by_part[:, :-1])
        total = harms.sum(axis=1, keepdims=True)
        chosen = levels[:, ~self.tables.compressing]
        settings = [columns[chosen[:, i]] for i, columns in enumerate(self._settings)]
        about = np.concatenate([np.zeros((len(levels), 0)), *settings], axis=1)
        together = np.stack([pairs.sum(axis=1), near.sum(axis=1), np.sqrt((by_part**2).sum(axis=1))], axis=1)
        constant = np.full((len(levels), 1), NOISE)
        return np.concatenate([harms, bends, together, SETTING * about, total * about, constant], axis=1)

    def _prior(self) -> tuple[Numbers, Numbers]:
        """Return mean and standard deviation of the coefficients, each of shape (features,)."""
        priors = [HARM] * self.harms + [BEND] * self.harms + [PAIRS, NEAR, MOST, *self._about, *self._about, CONSTANT]
        mean, spread = np.array(priors).T
        return mean, spread

    def _harms(self, form: Form, levels: LevelArray) -> Numbers:
        """Return the unscaled damage of each compressing choice, shape (points, compressing choices)."""
        harms: Numbers = self._typical * self._relative**form.trust * self._grown(levels) ** form.growth
        return harms**form.response

    def _grown(self, levels: LevelArray) -> Numbers:
        """Return the damage of each choice's level relative to that of its middle level."""
        grown: Numbers = self._growth[np.arange(self.harms), levels[:, self.tables.compressing]]
        return grown


@dataclass(frozen=True)
class Fitted:
    """A model with its posterior.

    Attributes:
        error: mean squared held-out residual, in standard deviations of the noise.

    """

    model: DamageModel
    form: Form
    scale: float
    coefficients: Numbers
    spread: Numbers
    factor: NDArray[Any]
    error: float

    def sample(self, rng: np.random.Generator, count: int, temperature: float) -> PosteriorSamples:
        """Return samples of the coefficients from the posterior; with temperature 0 they are its mean."""
        normal = rng.standard_normal((len(self.coefficients), count))
        deviation = self.spread[:, None] * solve_triangular(self.factor.T, normal, lower=False)
        drawn = self.coefficients[:, None] + temperature * deviation
        drawn[: self.model.harms] = np.maximum(drawn[: self.model.harms], LEAST_HARM)
        return PosteriorSamples(self.model, self.form, self.scale, drawn)


@dataclass(frozen=True)
class PosteriorSamples:
    """Samples of the damage of candidates from the posterior: coefficients of shape (features, beliefs)."""

    model: DamageModel
    form: Form
    scale: float
    coefficients: Numbers

    def __call__(self, levels: LevelArray) -> Numbers:
        """Return the damage of points in each sample, shape (beliefs, points)."""
        response = self.model.features(self.form, self.scale, levels) @ self.coefficients
        return _root(response.T, self.form.response)


def _root(response: Numbers, power: float) -> Numbers:
    root: Numbers = np.sign(response) * np.abs(response) ** (1 / power)
    return root


def _parts(tables: EncodedSpace) -> Numbers:
    """Return which compressing choices concern the same part of the network, shape (choices, parts), in its order."""
    order = {layer.name: i for i, layer in enumerate(tables.profile.network.layers)}
    targets = [choice.target for choice in tables.space.choices if choice.neutral is not None]
    parts = sorted(set(targets), key=lambda target: (order.get(target, len(order)), target))
    return np.array([[float(target == part) for part in parts] for target in targets]).reshape(-1, len(parts))


def _columns(choice: Choice) -> Numbers:
    """Return the features of each level of a setting, shape (levels, columns).

    Zeros for the first level, the default; a parabola for several numbers, otherwise one column for each other level.
    """
    numbers = [float(level) for level in choice.levels if not isinstance(level, str)]
    if len(numbers) > 3 and len(numbers) == len(choice.levels):
        place = (np.array(numbers) - numbers[0]) / (max(numbers) - min(numbers))
        return np.stack([place, place**2], axis=1)
    return np.eye(len(choice.levels))[:, 1:]


def _priors(columns: Numbers) -> list[tuple[float, float]]:
    """Return mean and standard deviation of the coefficient of each of a setting's columns."""
    levels, count = columns.shape
    return [SLOPE, CURVE] if count < levels - 1 else [OTHER] * count
