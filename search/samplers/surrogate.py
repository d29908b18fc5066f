"""The structured surrogate: the point that a belief about the whole space says would add most to the front.

At each call the belief is built anew from the study: what choices damage (samples from a Bayesian linear model on the
profile's sensitivities), what they cost (the profile's sums, set right by what was measured). An evolutionary search on
the belief then finds the point that adds most hypervolume to the front; points that are being evaluated count as if
they had come out as believed. While little is known, one sample near the posterior's mean is the belief; later several
wide ones are, of which the mean gain counts (expected improvement: Emmerich et al., CEC 2011). A share of all proposals
are plain mutations, so that no belief is relied on alone.
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
"""Measured trials up to which little is known."""

CLOSE, WIDE = (1, 0.2), (4, 0.7)
"""How many samples are drawn from the posterior early and later, and how far from its mean: in so many dimensions a
single whole sample explores and nothing else."""

LATEST = 300
"""Measured trials that a belief is made of, so that asking takes no longer in long studies."""

LEAST_KNOWN = 4
"""Measured trials before there is a belief."""

POPULATION, GENERATIONS, DESCENTS, RATE = 64, 25, 12, 1.5
"""The inner search: points, rounds, steps of the last point to its best neighbour, choices that a child changes."""


class SurrogateSampler(MutationSampler):
    """Proposes by a belief about the whole space.

    Args:
        tables: what may vary, and what is known of the network.
        judge: says what is asked of models.
        seed: of the random stream.

    """

    def __init__(self, tables: EncodedSpace, judge: FeasibilityRule, *, seed: int) -> None:
        super().__init__(tables, judge, seed=seed)
        self.model = DamageModel(tables)

    def propose(self, rng: np.random.Generator, history: History) -> LevelArray:
        """Return the point that would add most to the front, shape (choices,)."""
        known = np.isfinite(history.accuracy)
        if history.baseline is not None and known.sum() >= LEAST_KNOWN and rng.random() >= MUTATIONS:
            seen, goal = history.seen, self._gain(rng, history)
            for point in self._candidates(rng, goal, history):
                if point.tobytes() not in seen:
                    found: LevelArray = point
                    return found
        return super().propose(rng, history)

    def _candidates(self, rng: np.random.Generator, goal: ExpectedImprovement, history: History) -> LevelArray:
        """Return points to propose, the best first; where predictions fail, some of those near what is known."""
        missed = misses(history, self.judge.limits)
        if missed >= MISSES and missed % 2:
            points = around(rng, self.moves, history, self.judge.limits)
            return points[np.argsort(-goal(points), kind="stable")]
        return self._search(rng, goal, history.levels[history.feasible])

    def _gain(self, rng: np.random.Generator, history: History) -> ExpectedImprovement:
        """Return what says of points what they would add to the front."""
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
    def _tournament(rng: np.random.Generator, values: Numbers) -> LevelArray:
        """Return the places of the better of two points each (Goldberg and Deb, 1991)."""
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
