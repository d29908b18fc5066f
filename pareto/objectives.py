"""What a study optimises, as arrays, and the hypervolume of measured models."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..evaluators.measurement import Measurement
from .dominance import Points, hypervolume


def objectives(measurement: Measurement) -> tuple[float, float, float]:
    """Return what a study optimises: accuracy (up), latency in milliseconds (down), size in bytes (down)."""
    return measurement.accuracy, measurement.latency.median_ms, float(measurement.size_bytes)


def minimised(measurements: Iterable[Measurement]) -> Points:
    """Return the objectives as points of which every coordinate is to be minimised, shape (models, 3)."""
    rows = [(-accuracy, latency, size) for accuracy, latency, size in map(objectives, measurements)]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def front_hypervolume(measurements: Iterable[Measurement], baseline: Measurement, target_ms: float) -> float:
    """Return the hypervolume of measurements between 0 and 1.

    The box reaches from an ideal model (the baseline's accuracy, no latency, no size) to a tenth of that accuracy
    less, the target latency and the baseline's size.
    """
    points = minimised(measurements)
    if not len(points):
        return 0.0
    scale = np.array([0.1 * abs(baseline.accuracy) or 1.0, target_ms, float(baseline.size_bytes)])
    origin = np.array([-baseline.accuracy, 0.0, 0.0])
    return hypervolume(np.maximum((points - origin) / scale, 0.0), np.ones(3))
