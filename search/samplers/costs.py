"""What candidates cost in milliseconds and bytes: the sums of a profile, set right by what was measured."""

from __future__ import annotations

import numpy as np

from .history import History
from .tables import Levels, Numbers, Tables

NOISE = 0.015
"""Standard deviation of a measured latency relative to itself."""

LAYER, ROOT, BORDERS, OTHER = 0.3, 0.3, 0.2, 0.5
"""Prior standard deviations of the parts of a latency, as shares of what the profile says; see `Tables.time_parts`."""

LATEST = 300
"""Trials that latencies are learned from."""

RECENT = 60
"""Trials whose median error predictions are scaled by."""


class Costs:
    """Predicts latencies and sizes.

    A latency is a sum of parts whose weights have a Gaussian prior around the profile's, all scaled by the median error
    (Bayesian linear regression). A size is exact but for a factor.

    Args:
        tables: the space and what its profile tells.
        history: what was measured.

    """

    def __init__(self, tables: Tables, history: History) -> None:
        self.tables = tables
        timed = np.flatnonzero(np.isfinite(history.latency_ms))[-LATEST:]
        self._weights = self._fitted(history.levels[timed], history.latency_ms[timed])
        recent, sized = latest(history.high_ms), latest(history.size_bytes)
        self.margin = typical(history.high_ms[recent] / history.latency_ms[recent])
        self._size = typical(history.size_bytes[sized] / tables.size_bytes(history.levels[sized]))

    def latency_ms(self, levels: Levels) -> Numbers:
        """Return milliseconds, shape (points,)."""
        predicted: Numbers = self.tables.time_parts(levels) @ self._weights
        return predicted

    def size_bytes(self, levels: Levels) -> Numbers:
        """Return bytes, shape (points,)."""
        return self._size * self.tables.size_bytes(levels)

    def _fitted(self, levels: Levels, latency_ms: Numbers) -> Numbers:
        parts = self.tables.time_parts(levels)
        layers = (parts.shape[1] - 2) // 2
        scale = typical(latency_ms[-RECENT:] / self.tables.latency_ms(levels[-RECENT:]))
        mean = scale * np.concatenate([np.ones(layers), np.zeros(layers + 1), [1.0]])
        spread = scale * np.concatenate([np.full(layers, LAYER), np.full(layers, ROOT), [BORDERS, OTHER]])
        noise = NOISE * latency_ms
        design = parts * spread / noise[:, None]
        rest = (latency_ms - parts @ mean) / noise
        weights: Numbers = mean + spread * np.linalg.solve(np.eye(len(mean)) + design.T @ design, design.T @ rest)
        return weights


def latest(measured: Numbers) -> Levels:
    """Return the places of the latest trials of which something was measured; NaN is where nothing was."""
    places: Levels = np.flatnonzero(np.isfinite(measured))[-RECENT:]
    return places


def typical(errors: Numbers) -> float:
    """Return the median of what was measured over what was expected; 1 where nothing was."""
    return float(np.median(errors)) if len(errors) else 1.0
