"""The structured surrogate: proposes the point that a model of the whole space expects to add most to the front.

At each call the model is rebuilt from the study: the damage of choices (samples from a Bayesian linear model on the
profile's sensitivities) and their costs (the profile's sums, corrected by the measurements). An evolutionary search on
the model then finds the point that adds most hypervolume to the front; points that are being evaluated count with their
predictions. With little data, one sample near the posterior's mean is used; later several wide ones, of which the mean
gain counts (expected improvement: Emmerich et al., CEC 2011). A share of all proposals are plain mutations, so that the
search never relies on the model alone.
"""

from __future__ import annotations

import numpy as np

from .acquisition import ExpectedImprovement
from .cost_predictor import CostPredictor
from .damage_model import LEAST_LEFT, DamageModel
from .encoding import EncodedSpace, LevelArray, Numbers
from .exploration import MISSES, around, misses
from .history import FeasibilityRule, History
from .mutation import MutationSampler

MUTATIONS = 0.05
"""Share of proposals that are mutations of the front."""

EARLY = 45
"""Up to this many measured trials there is little data."""

CLOSE, WIDE = (1, 0.2), (4, 0.7)
"""Number of samples from the posterior early and later, and their distance from its mean: in so many dimensions a
single full sample only explores.
"""

LATEST = 300
"""Most measured trials that the model uses, so that proposing takes no longer in long studies."""

LEAST_KNOWN = 4
"""Measured trials before there is a model."""

POPULATION, GENERATIONS, DESCENTS, RATE = 64, 25, 12, 1.5
"""The inner search: points, rounds, steps of the last point to its best neighbour, choices that a child changes."""


class SurrogateSampler(MutationSampler):
    """Proposes points by a model of the whole space.

    Args:
        tables: the space and its profile.
        judge: knows the current limits.
        seed: seed of the random stream.

    """

    def __init__(self, tables: EncodedSpace, judge: FeasibilityRule, *, seed: int) -> None:
        super().__init__(tables, judge, seed=seed)
        self.model = DamageModel(tables)

    def propose(self, rng: np.random.Generator, history: History) -> LevelArray:
        """Return the point expected to add most to the front, shape (choices,)."""
        known = np.isfinite(history.accuracy)
        if history.baseline is not None and known.sum() >= LEAST_KNOWN and rng.random() >= MUTATIONS:
            seen, goal = history.seen, self._gain(rng, history)
            for point in self._candidates(rng, goal, history):
                if point.tobytes() not in seen:
                    found: LevelArray = point
                    return found
        return super().propose(rng, history)

    def _candidates(self, rng: np.random.Generator, goal: ExpectedImprovement, history: History) -> LevelArray:
        """Return points to propose, the best first; if predictions fail, some of them near known points."""
        missed = misses(history, self.judge.limits)
        if missed >= MISSES and missed % 2:
            points = around(rng, self.moves, history, self.judge.limits)
            return points[np.argsort(-goal(points), kind="stable")]
        return self._search(rng, goal, history.levels[history.feasible])

    def _gain(self, rng: np.random.Generator, history: History) -> ExpectedImprovement:
        """Return the function that gives the expected improvement of points."""
        known = np.flatnonzero(np.isfinite(history.accuracy))[-LATEST:]
        accuracy = float(history.accuracy[history.baseline])
        lost = (accuracy - history.accuracy[known]) / (abs(accuracy) or 1.0)
        damage = -np.log(np.maximum(1 - lost, LEAST_LEFT))
        fitted, costs = self.model.fit(history.levels[known], damage), CostPredictor(self.tables, history)
        box = accuracy, float(history.size_bytes[history.baseline])
        taken = np.concatenate([history.levels[history.feasible], history.others])
        beliefs = fitted.sample(rng, *(CLOSE if len(known) < EARLY else WIDE))
        return ExpectedImprovement(beliefs, costs, self.judge.limits, box, taken)

    def _search(self, rng: np.random.Generator, goal: ExpectedImprovement, front: LevelArray) -> LevelArray:
        """Return points, the best first, from an evolutionary search and a descent from the best point found."""
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
    def _tournament(rng: np.random.Generator, values: Numbers) -> LevelArray:
        """Return the indices of the better of two points each (Goldberg and Deb, 1991)."""
        one, other = rng.integers(len(values), size=(2, POPULATION))
        winners: LevelArray = np.where(values[one] >= values[other], one, other)
        return winners

    def _descend(self, goal: ExpectedImprovement, point: LevelArray, value: float) -> LevelArray:
        for _ in range(DESCENTS):
            near = self.moves.neighbours(point)
            values = goal(near)
            best = int(values.argmax())
            if values[best] <= value:
                break
            point, value = near[best], float(values[best])
        return point[None]
