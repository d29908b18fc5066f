"""The structured surrogate: the point that a belief about the whole space says would add most to the front.

At each call the belief is built anew from the study: what choices damage (a sample from a Bayesian linear model on the
profile's sensitivities), what they cost (the profile's sums, set right by what was measured). An evolutionary search on
the belief then finds the point that adds most hypervolume to the front; points that are being evaluated count as if
they had come out as believed. A share of all proposals are plain mutations, so that no belief is relied on alone.
"""

from __future__ import annotations

import numpy as np

from ..limits import Limits
from .costs import Costs
from .damage import LEAST_LEFT, DamageModel, Sampled
from .history import History, Judge
from .improvement import Improvement
from .mutation import MutationSampler
from .tables import Levels, Numbers, Tables

MUTATIONS = 0.05
"""Share of proposals that are mutations of the front."""

TEMPERATURE = 0.2
"""How far from its mean the posterior is sampled: in so many dimensions a whole sample explores and nothing else."""

LEAST_KNOWN = 4
"""Measured trials before there is a belief."""

POPULATION, GENERATIONS, DESCENTS, RATE = 64, 25, 12, 1.5
"""The inner search: points, rounds, steps of the last point to its best neighbour, choices that a child changes."""

DROP = 0.1
"""The hypervolume counts from this share of the baseline's accuracy lost."""

HEADROOM = 0.01
"""Share of the baseline's accuracy that a model may gain and have it counted."""

AIM = 0.985
"""Share of the target that the upper end of the predicted interval may reach."""


class SurrogateSampler(MutationSampler):
    """Proposes by a belief about the whole space.

    Args:
        tables: what may vary, and what is known of the network.
        judge: says what is asked of models.
        seed: of the random stream.

    """

    def __init__(self, tables: Tables, judge: Judge, *, seed: int) -> None:
        super().__init__(tables, judge, seed=seed)
        self.model = DamageModel(tables)

    def propose(self, rng: np.random.Generator, history: History) -> Levels:
        """Return the point that would add most to the front, shape (choices,)."""
        known = np.isfinite(history.accuracy)
        if history.baseline is not None and known.sum() >= LEAST_KNOWN and rng.random() >= MUTATIONS:
            goal, seen = self._goal(rng, history), history.seen
            for point in self._search(rng, goal, history.levels[history.feasible]):
                if point.tobytes() not in seen:
                    found: Levels = point
                    return found
        return super().propose(rng, history)

    def _goal(self, rng: np.random.Generator, history: History) -> _Goal:
        known = np.isfinite(history.accuracy)
        accuracy = float(history.accuracy[history.baseline])
        lost = (accuracy - history.accuracy[known]) / (abs(accuracy) or 1.0)
        damage = -np.log(np.maximum(1 - lost, LEAST_LEFT))
        belief = self.model.fit(history.levels[known], damage).sample(rng, TEMPERATURE)
        box = accuracy, float(history.size_bytes[history.baseline])
        goal = _Goal(belief, Costs(self.tables, history), self.judge.limits, box)
        goal.fill(np.concatenate([history.levels[history.feasible], history.others]))
        return goal

    def _search(self, rng: np.random.Generator, goal: _Goal, front: Levels) -> Levels:
        """Return points, the best first, by an evolutionary search and a descent from the best that it finds."""
        points = self.moves.random(rng, POPULATION)
        if len(front):
            parents = front[rng.integers(len(front), size=POPULATION - POPULATION // 8)]
            points[: len(parents)] = self.moves.children(rng, parents, parents, RATE)
        values = goal(points)
        for _ in range(GENERATIONS):
            ones, others = (self._tournament(rng, values) for _ in range(2))
            children = self.moves.children(rng, points[ones], points[others], RATE)
            points, first = np.unique(np.concatenate([points, children]), axis=0, return_index=True)
            values = np.concatenate([values, goal(children)])[first]
            best = np.argsort(-values, kind="stable")[:POPULATION]
            points, values = points[best], values[best]
        return np.concatenate([self._descend(goal, points[0], float(values[0])), points])

    @staticmethod
    def _tournament(rng: np.random.Generator, values: Numbers) -> Levels:
        """Return the places of the better of two points each (Goldberg and Deb, 1991)."""
        one, other = rng.integers(len(values), size=(2, POPULATION))
        winners: Levels = np.where(values[one] >= values[other], one, other)
        return winners

    def _descend(self, goal: _Goal, point: Levels, value: float) -> Levels:
        for _ in range(DESCENTS):
            near = self.moves.neighbours(point)
            values = goal(near)
            best = int(values.argmax())
            if values[best] <= value:
                break
            point, value = near[best], float(values[best])
        return point[None]


class _Goal:
    """What a point is worth: the hypervolume that it would add, and where that is none, how near it comes.

    Args:
        belief: what points damage.
        costs: what they cost.
        limits: what a model must meet.
        baseline: the unchanged network's accuracy and size in bytes.

    """

    def __init__(self, belief: Sampled, costs: Costs, limits: Limits, baseline: tuple[float, float]) -> None:
        self.belief = belief
        self.costs = costs
        self.limits = limits
        self.accuracy, self.size_bytes = baseline
        self.improvement = Improvement(np.zeros((0, 3)))

    def fill(self, levels: Levels) -> None:
        """Take some points for the front, as they are believed to be: noise has made none of them lucky."""
        self.improvement = Improvement(self._box(*self._predicted(levels)))

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
