"""What a point would add to the front, if a belief is true."""

from __future__ import annotations

import numpy as np

from ..limits import Limits
from .costs import Costs
from .damage import Sampled
from .improvement import Improvement
from .tables import Levels, Numbers

DROP = 0.1
"""The hypervolume counts from this share of the baseline's accuracy lost."""

HEADROOM = 0.01
"""Share of the baseline's accuracy that a model may gain and have it counted."""

AIM = 0.985
"""Share of the target that the upper end of the predicted interval may reach."""


class Gain:
    """What a point is worth: the hypervolume that it would add, and where that is none, how near it comes.

    Args:
        belief: what points damage.
        costs: what they cost.
        limits: what a model must meet.
        baseline: the unchanged network's accuracy and size in bytes.
        taken: points of the front, and those that may come onto it; what counts is what is believed of them, so that
            noise has made none of them lucky.

    """

    def __init__(
        self, belief: Sampled, costs: Costs, limits: Limits, baseline: tuple[float, float], taken: Levels
    ) -> None:
        self.belief = belief
        self.costs = costs
        self.limits = limits
        self.accuracy, self.size_bytes = baseline
        self.improvement = Improvement(self._box(*self._predicted(taken)))

    def __call__(self, levels: Levels) -> Numbers:
        """Return the worth of points, shape (points,)."""
        accuracy, latency, size = self._predicted(levels)
        points = self._box(accuracy, latency, size)
        excess = np.maximum(latency / AIM - 1, 0)
        if self.limits.max_size_bytes is not None:
            excess += np.maximum(size / self.limits.max_size_bytes - 1, 0)
        if self.limits.min_accuracy is not None:
            excess += np.maximum((self.limits.min_accuracy - accuracy) / (abs(self.accuracy) or 1.0), 0)
        beyond = np.maximum(points - 1, 0).sum(axis=1)
        worth: Numbers = (
            self.improvement(points) * (excess == 0) - 10 * excess - 0.1 * beyond - 1e-3 * points.mean(axis=1)
        )
        return worth

    def _predicted(self, levels: Levels) -> tuple[Numbers, Numbers, Numbers]:
        """Return accuracies, upper ends of latencies as shares of the target, sizes in bytes, each (points,)."""
        scale = abs(self.accuracy) or 1.0
        accuracy = self.accuracy - scale * (1 - np.exp(-np.maximum(self.belief(levels), -2 * HEADROOM)))
        latency = self.costs.latency_ms(levels) * self.costs.margin / self.limits.target_ms
        return accuracy, latency, self.costs.size_bytes(levels)

    def _box(self, accuracy: Numbers, latency: Numbers, size_bytes: Numbers) -> Numbers:
        """Return points between the ideal, 0, and what counts for nothing, 1, shape (points, 3)."""
        scale = abs(self.accuracy) or 1.0
        drop = (self.accuracy - accuracy) / scale
        return np.stack([(drop + HEADROOM) / (DROP + HEADROOM), latency, size_bytes / self.size_bytes], axis=1)
