"""What a study optimises, as arrays, and the hypervolume of measured models."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..evaluators.measurement import Measurement
from .dominance import Points, hypervolume

LOSS = 0.1
"""Distance from the baseline's accuracy to the reference point's, as a share of the baseline's."""


def objectives(measurement: Measurement) -> tuple[float, float, float]:
    """Return what a study optimises: accuracy (up), latency in milliseconds (down), size in bytes (down)."""
    return measurement.accuracy, measurement.latency.median_ms, float(measurement.size_bytes)


def minimised(measurements: Iterable[Measurement]) -> Points:
    """Return the objectives as points of which every coordinate is to be minimised, shape (models, 3)."""
    rows = [(-accuracy, latency, size) for accuracy, latency, size in map(objectives, measurements)]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def reference_accuracy(accuracy: float) -> float:
    """Return the accuracy of the reference point, up to which a hypervolume counts, for the baseline's accuracy.

    >>> round(reference_accuracy(0.9), 3), round(reference_accuracy(-0.5), 3)
    (0.81, -0.55)
    """
    return accuracy - (LOSS * abs(accuracy) or 1.0)


def relative(points: Points, *, accuracy: float, latency_ms: float, size_bytes: float) -> Points:
    """Return minimised points between an ideal model, which is 0, and the reference point, which is 1.

    The ideal model has the baseline's accuracy, no latency and no size. The reference point has `reference_accuracy`.

    Args:
        points: shape (models, 3); see `minimised`.
        accuracy: the baseline's.
        latency_ms: the reference point's.
        size_bytes: the reference point's.
    """
    spread = np.array([LOSS * abs(accuracy) or 1.0, latency_ms, float(size_bytes)])
    found: Points = (points - np.array([-accuracy, 0.0, 0.0])) / spread
    return found


def front_hypervolume(measurements: Iterable[Measurement], baseline: Measurement, target_ms: float) -> float:
    """Return the hypervolume of measurements between 0 and 1.

    The reference point has `reference_accuracy`, the target latency and the baseline's size.
    """
    points = minimised(measurements)
    if not len(points):
        return 0.0
    base = {"accuracy": baseline.accuracy, "latency_ms": target_ms, "size_bytes": baseline.size_bytes}
    return hypervolume(np.maximum(relative(points, **base), 0.0), np.ones(3))
