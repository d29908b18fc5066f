"""The expected gain of points for the front, under the posterior."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.special import ndtr

from ...pareto.limits import Limits
from ...pareto.objectives import LOSS
from .cost_predictor import CostPredictor
from .damage_model import PosteriorSamples
from .encoding import LevelArray, Numbers
from .hypervolume_improvement import Improvement

HEADROOM = 0.01
"""Largest gain in accuracy that counts, as a share of the baseline's."""

FASTEST = 1 / 16
"""Share of the target latency at which the ideal lies: ten percent faster counts as much at all latencies above it."""

HOPE = 1.0
"""Standard deviations below its prediction at which a cost may still meet its limit."""


class ExpectedImprovement:
    """Expected improvement of points: the hypervolume they would add, times the probability that they meet the limits.

    The hypervolume has the logarithm of the latency, so that all speed-ups of a front count alike.

    Where that is zero, it is how near they come under optimistic predictions (Schonlau, Welch and Jones, 1998).

    Args:
        beliefs: predict the damage of points; the mean over all samples counts.
        costs: predict their costs.
        limits: what a model must meet.
        baseline: the unchanged network's accuracy and size in bytes.
        taken: points of the front, and those that may reach it; their predictions count, not their measurements, so
            that noise has made none of them look good.

    """

    def __init__(
        self,
        beliefs: PosteriorSamples,
        costs: CostPredictor,
        limits: Limits,
        baseline: tuple[float, float],
        taken: LevelArray,
    ) -> None:
        self.beliefs = beliefs
        self.costs = costs
        self.limits = limits
        self.accuracy, self.size_bytes = baseline
        self._scale = abs(self.accuracy) or 1.0
        self._fronts = [Improvement(box) for box in self._boxes(taken, self._latency(taken)[0], self._accuracy(taken))]

    def __call__(self, levels: LevelArray) -> Numbers:
        """Return the expected improvement of points, shape (points,)."""
        latency, accuracy = self._latency(levels), self._accuracy(levels)
        boxes = self._boxes(levels, latency[0], accuracy)
        added = np.stack([front(box) for front, box in zip(self._fronts, boxes, strict=True)])
        chance, excess = np.ones(len(levels)), np.zeros(accuracy.shape)
        for mean, spread in (latency, *self._others(levels)):
            chance = chance * ndtr(-mean / spread)
            excess = excess + np.maximum(np.exp(mean - HOPE * spread) - 1, 0)
        if self.limits.max_size_bytes is not None:
            excess = excess + np.maximum(self.costs.size_bytes(levels) / self.limits.max_size_bytes - 1, 0)
        if self.limits.aim is not None:
            excess = excess + np.maximum((self.limits.aim - accuracy) / self._scale, 0)
        beyond = np.maximum(boxes - 1, 0).sum(axis=2)
        worth: Numbers = added * chance * (excess == 0) - 10 * excess - 0.1 * beyond - 1e-3 * boxes.mean(axis=2)
        mean_worth: Numbers = worth.mean(axis=0)
        return mean_worth

    def _latency(self, levels: LevelArray) -> tuple[Numbers, Numbers]:
        """Return the logarithm of the latency's upper end as a share of the target, and its standard deviation."""
        mean, spread = self.costs.latency(levels)
        return mean + np.log(self.costs.margin / self.limits.target_ms), spread

    def _others(self, levels: LevelArray) -> Iterator[tuple[Numbers, Numbers]]:
        """Yield the same for each other limit whose costs are predicted."""
        if self.limits.max_memory_bytes is not None:
            mean, spread = self.costs.memory(levels)
            yield mean - np.log(self.limits.max_memory_bytes), spread
        if self.limits.max_energy_mj is not None:
            mean, spread = self.costs.energy(levels)
            yield mean - np.log(self.limits.max_energy_mj), spread

    def _accuracy(self, levels: LevelArray) -> Numbers:
        """Return accuracies in each sample, shape (beliefs, points)."""
        damage = np.maximum(self.beliefs(levels), -2 * HEADROOM)
        accuracy: Numbers = self.accuracy - self._scale * (1 - np.exp(-damage))
        return accuracy

    def _boxes(self, levels: LevelArray, latency: Numbers, accuracy: Numbers) -> Numbers:
        """Return points scaled to the ideal, 0, and to the end of the box, 1, shape (beliefs, points, 3)."""
        drop = ((self.accuracy - accuracy) / self._scale + HEADROOM) / (LOSS + HEADROOM)
        size = self.costs.size_bytes(levels) / self.size_bytes
        time = np.maximum(1 - latency / np.log(FASTEST), 0.0)
        return np.stack(np.broadcast_arrays(drop, time, size), axis=2)
