"""What candidates cost in milliseconds and bytes: the sums of a profile, set right by what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .history import History
from .regression import regression
from .tables import Levels, Numbers, Tables

NOISE, LAW = 0.015, 0.1
"""Standard deviations of a measured latency relative to itself: about a sum, and about a power law, which is no more
than a law."""

LAYER, ROOT, BORDERS, OTHER = 0.3, 0.3, 0.2, 0.5
"""Prior standard deviations of the parts of a latency, as shares of what the profile says; see `Tables.time_parts`."""

POWER = 0.3
"""Prior standard deviation of the power of what the profile says."""

FAR = 1.0
"""Difference of logarithms beyond which a prediction is simply wrong."""

LATEST = 300
"""Trials that latencies are learned from."""

RECENT = 60
"""Trials whose median error predictions are scaled by."""


@dataclass(frozen=True)
class Law:
    """Tells latencies of points, in milliseconds; ``error`` is that of its logarithm, where it had to foretell them."""

    tell: Callable[[Levels], Numbers]
    error: float

    def __call__(self, levels: Levels) -> Numbers:
        """Return milliseconds, shape (points,)."""
        return self.tell(levels)


class Costs:
    """Predicts latencies and sizes.

    A latency is a sum of parts whose weights have a Gaussian prior around the profile's, all scaled by the median error
    (Bayesian linear regression); or it is a power of the profile's sum, where that foretells each trial better from the
    others: what does not shrink with a network's layers makes small networks slower than their sum. A size is exact but
    for a factor.

    Args:
        tables: the space and what its profile tells.
        history: what was measured.

    """

    def __init__(self, tables: Tables, history: History) -> None:
        self.tables = tables
        timed = np.flatnonzero(np.isfinite(history.latency_ms))[-LATEST:]
        levels, latency_ms = history.levels[timed], history.latency_ms[timed]
        self._law = min((self._sum(levels, latency_ms), self._power(levels, latency_ms)), key=lambda law: law.error)
        recent, sized = latest(history.high_ms), latest(history.size_bytes)
        self.margin = typical(history.high_ms[recent] / history.latency_ms[recent])
        self._size = typical(history.size_bytes[sized] / tables.size_bytes(history.levels[sized]))

    def latency_ms(self, levels: Levels) -> Numbers:
        """Return milliseconds, shape (points,)."""
        return self._law(levels)

    def size_bytes(self, levels: Levels) -> Numbers:
        """Return bytes, shape (points,)."""
        return self._size * self.tables.size_bytes(levels)

    def _sum(self, levels: Levels, latency_ms: Numbers) -> Law:
        """Return a sum of layers whose weights are learned; what it says of the fastest is held above nothing."""
        parts = self.tables.time_parts(levels)
        layers = (parts.shape[1] - 2) // 2
        scale = typical(latency_ms[-RECENT:] / self.tables.latency_ms(levels[-RECENT:]))
        mean = scale * np.concatenate([np.ones(layers), np.zeros(layers + 1), [1.0]])
        spread = scale * np.concatenate([np.full(layers, LAYER), np.full(layers, ROOT), [BORDERS, OTHER]])
        fit = regression(parts, latency_ms, NOISE * latency_ms, mean, spread)
        least = 0.5 * latency_ms.min() if len(latency_ms) else 0.0
        error = log_error(np.maximum(fit.held_out, 1e-3 * latency_ms) / latency_ms)
        return Law(lambda points: np.maximum(self.tables.time_parts(points) @ fit.weights, least), error)

    def _power(self, levels: Levels, latency_ms: Numbers) -> Law:
        """Return a power of the profile's sum, with a factor."""

        def terms(points: Levels) -> Numbers:
            told = np.maximum(self.tables.latency_ms(points), 1e-6)
            return np.stack([np.ones(len(points)), np.log(told)], axis=1)

        noise = np.full(len(levels), LAW)
        fit = regression(terms(levels), np.log(latency_ms), noise, np.array([0.0, 1.0]), np.array([3.0, POWER]))
        return Law(lambda points: np.exp(terms(points) @ fit.weights), log_error(np.exp(fit.held_out) / latency_ms))


def latest(measured: Numbers) -> Levels:
    """Return the places of the latest trials of which something was measured; NaN is where nothing was."""
    places: Levels = np.flatnonzero(np.isfinite(measured))[-RECENT:]
    return places


def typical(errors: Numbers) -> float:
    """Return the median of what was measured over what was expected; 1 where nothing was."""
    return float(np.median(errors)) if len(errors) else 1.0


def log_error(ratios: Numbers) -> float:
    """Return the root mean square of logarithms, those that are far off held at `FAR`."""
    return float(np.sqrt(np.mean(np.minimum(np.log(ratios) ** 2, FAR**2)))) if len(ratios) else 0.0
