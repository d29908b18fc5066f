"""Predicts the costs of candidates: latency, size, memory and energy, by models fitted to the measurements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .encoding import EncodedSpace, LevelArray, Numbers
from .features import Features, Points
from .history import History
from .laws import Blend, Likeness, Parts

NOISE, PROBE_NOISE = 0.03, 0.05
"""Relative standard deviations of a trial's measurement, and of the profile's quick measurements, around a model that
does not know everything.
"""

ANY = 3.0
"""Prior standard deviation of the logarithm of an unknown factor."""

Prior = tuple[tuple[float, ...], tuple[float, ...]]
"""Prior mean and standard deviation of the weights of a trend of logarithms."""

TIME: Prior = (0.0, 1.0), (ANY, 0.3)
ENERGY: Prior = (0.0, 0.5, 0.5), (ANY, 0.5, 0.5)
MEMORY: Prior = (0.0, 0.0, 0.0, 0.0), (ANY, 0.5, 0.5, 0.5)
"""For `Points.spent`, `Points.drawn` and `Points.stored`: latency and energy are about powers of the profile's
prediction.
"""

LATEST = 200
"""Most trials that costs are learned from."""

RECENT = 60
"""Trials whose median error scales the predictions."""


class CostPredictor:
    """Predicts the costs of candidates.

    Latency and energy come from a sum of parts or from similar networks, whichever is more certain; memory comes from
    similar networks. Each prediction has a standard deviation. Sizes are exact up to a factor.

    Args:
        tables: the space and its profile.
        history: the measurements.

    """

    def __init__(self, tables: EncodedSpace, history: History) -> None:
        self.tables = tables
        self._features = Features(tables)
        probed, probed_ms = tables.probed
        recent, sized = latest(history.high_ms), latest(history.size_bytes)
        self.margin = typical(history.high_ms[recent] / history.latency_ms[recent])
        self._size = typical(history.size_bytes[sized] / tables.size_bytes(history.levels[sized]))
        timed = latest(history.latency_ms, LATEST)
        levels = np.concatenate([probed, history.levels[timed]])
        noise = np.repeat([PROBE_NOISE, NOISE], [len(probed), len(timed)])
        milliseconds = np.concatenate([probed_ms, history.latency_ms[timed]])
        self._latency = self._spent(levels, milliseconds, noise, lambda points: points.spent, TIME)
        drawn, held = latest(history.energy_mj, LATEST), latest(history.memory_bytes, LATEST)
        noise = np.full(len(drawn), NOISE)
        energy_mj = history.energy_mj[drawn]
        self._energy = self._spent(history.levels[drawn], energy_mj, noise, lambda points: points.drawn, ENERGY)
        self._memory = self._held(history.levels[held], history.memory_bytes[held])

    def latency(self, levels: LevelArray) -> tuple[Numbers, Numbers]:
        """Return the logarithm of milliseconds and its standard deviation, each of shape (points,)."""
        return self._latency.tell(self._features(levels))

    def latency_ms(self, levels: LevelArray) -> Numbers:
        """Return milliseconds, shape (points,)."""
        milliseconds: Numbers = np.exp(self.latency(levels)[0])
        return milliseconds

    def energy(self, levels: LevelArray) -> tuple[Numbers, Numbers]:
        """Return the logarithm of millijoules and its standard deviation, each of shape (points,)."""
        return self._energy.tell(self._features(levels))

    def memory(self, levels: LevelArray) -> tuple[Numbers, Numbers]:
        """Return the logarithm of bytes of memory and its standard deviation, each of shape (points,)."""
        return self._memory.tell(self._features(levels))

    def size_bytes(self, levels: LevelArray) -> Numbers:
        """Return bytes, shape (points,)."""
        return self._size * self.tables.size_bytes(levels)

    def _spent(
        self, levels: LevelArray, costs: Numbers, noise: Numbers, trend: Callable[[Points], Numbers], prior: Prior
    ) -> Blend:
        """Return the model of what a network spends: latency or energy."""
        scale = typical(costs[-RECENT:] / self.tables.latency_ms(levels[-RECENT:]))
        points = self._features(levels)
        likeness = Likeness(points, costs / scale, noise, trend, prior)
        return Blend((Parts(points, costs / scale, noise), likeness), NOISE, scale)

    def _held(self, levels: LevelArray, costs: Numbers) -> Blend:
        """Return the model of what a network holds in memory."""
        scale = typical(costs)
        noise = np.full(len(costs), NOISE)
        likeness = Likeness(self._features(levels), costs / scale, noise, lambda points: points.stored, MEMORY)
        return Blend((likeness,), NOISE, scale)


def latest(measured: Numbers, count: int = RECENT) -> LevelArray:
    """Return the indices of the latest trials with a measurement; NaN or 0 stands for none."""
    places: LevelArray = np.flatnonzero(np.isfinite(measured) & (measured > 0))[-count:]
    return places


def typical(errors: Numbers) -> float:
    """Return the median of measured over predicted values; 1 if there are none."""
    return float(np.median(errors)) if len(errors) else 1.0
