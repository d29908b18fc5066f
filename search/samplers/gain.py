"""What points would add to the front, if beliefs are true."""

from __future__ import annotations

import numpy as np

from ..limits import Limits
from .costs import Costs
from .damage import Beliefs
from .improvement import Improvement
from .tables import Levels, Numbers

DROP = 0.1
"""The hypervolume counts from this share of the baseline's accuracy lost."""

HEADROOM = 0.01
"""Share of the baseline's accuracy that a model may gain and have it counted."""

AIM = 0.985
"""Share of the target that the upper end of the predicted interval may reach."""


class Gain:
    """What points are worth: the hypervolume that they would add, and where that is none, how near they come.

    Args:
        beliefs: what points damage; the mean over all beliefs counts.
        costs: what they cost.
        limits: what a model must meet.
        baseline: the unchanged network's accuracy and size in bytes.
        taken: points of the front, and those that may come onto it; what counts is what is believed of them, so that
            noise has made none of them lucky.

    """

    def __init__(
        self, beliefs: Beliefs, costs: Costs, limits: Limits, baseline: tuple[float, float], taken: Levels
    ) -> None:
        self.beliefs = beliefs
        self.costs = costs
        self.limits = limits
        self.accuracy, self.size_bytes = baseline
        self._scale = abs(self.accuracy) or 1.0
        self._fronts = [Improvement(box) for box in self._boxes(*self._predicted(taken))]

    def __call__(self, levels: Levels) -> Numbers:
        """Return the worth of points, shape (points,)."""
        accuracy, latency, size = self._predicted(levels)
        boxes = self._boxes(accuracy, latency, size)
        added = np.stack([front(box) for front, box in zip(self._fronts, boxes, strict=True)])
        excess = np.maximum(latency / AIM - 1, 0)
        if self.limits.max_size_bytes is not None:
            excess = excess + np.maximum(size / self.limits.max_size_bytes - 1, 0)
        if self.limits.min_accuracy is not None:
            excess = excess + np.maximum((self.limits.min_accuracy - accuracy) / self._scale, 0)
        beyond = np.maximum(boxes - 1, 0).sum(axis=2)
        worth: Numbers = added * (excess == 0) - 10 * excess - 0.1 * beyond - 1e-3 * boxes.mean(axis=2)
        mean: Numbers = worth.mean(axis=0)
        return mean

    def _predicted(self, levels: Levels) -> tuple[Numbers, Numbers, Numbers]:
        """Return accuracies in each belief, (beliefs, points), and of points: shares of the target, sizes in bytes."""
        damage = np.maximum(self.beliefs(levels), -2 * HEADROOM)
        accuracy = self.accuracy - self._scale * (1 - np.exp(-damage))
        latency = self.costs.latency_ms(levels) * self.costs.margin / self.limits.target_ms
        return accuracy, latency, self.costs.size_bytes(levels)

    def _boxes(self, accuracy: Numbers, latency: Numbers, size_bytes: Numbers) -> Numbers:
        """Return points between the ideal, 0, and what counts for nothing, 1, shape (beliefs, points, 3)."""
        drop = ((self.accuracy - accuracy) / self._scale + HEADROOM) / (DROP + HEADROOM)
        return np.stack(np.broadcast_arrays(drop, latency, size_bytes / self.size_bytes), axis=2)
