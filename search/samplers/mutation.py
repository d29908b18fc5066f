"""Mutation of the front: a child of one or two models of the front, made fast enough for the target.

The sampler is stateless: it reads everything from the study at each call, and its random stream depends only on the
seed and the trial's number. So an interrupted study continues as if it had never stopped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from ...pareto.dominance import non_dominated
from ...storage.trial_queue import distributions
from .cost_predictor import latest, typical
from .encoding import EncodedSpace, LevelArray, Numbers
from .history import FeasibilityRule, History, Reader
from .variation import Moves

MARGIN = 0.97
"""Children aim at this share of the target, so that the interval's upper end meets it too."""

RATE = 2.0
"""Mean number of choices that a child changes."""

TRIES = 50
"""How many children may be already seen ones, before one of these is proposed again."""


class MutationSampler(BaseSampler):
    """Proposes children of the front.

    Args:
        tables: the space and its profile.
        judge: knows the current limits.
        seed: seed of the random stream.

    """

    def __init__(self, tables: EncodedSpace, judge: FeasibilityRule, *, seed: int) -> None:
        self.tables = tables
        self.judge = judge
        self.seed = seed
        self.moves = Moves(tables)
        self._reader = Reader(tables, judge)
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return distributions(self.tables.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the levels of a point that no trial has had, if there is one."""
        if "fixed_params" in trial.system_attrs:  # the trial was enqueued with a candidate of its own
            return {}
        rng = np.random.default_rng([self.seed, trial.number])
        return self.tables.levels(self.propose(rng, self._reader.read(study, trial)))

    def propose(self, rng: np.random.Generator, history: History) -> LevelArray:
        """Return a child of the front, shape (choices,)."""
        parents, weights = self._parents(history)
        timed = latest(history.latency_ms)
        scale = typical(history.latency_ms[timed] / self.tables.latency_ms(history.levels[timed]))
        seen = history.seen
        for _ in range(TRIES):
            first, second = rng.choice(len(parents), 2, p=weights / weights.sum())
            (child,) = self.moves.children(rng, parents[[first]], parents[[second]], RATE)
            child = self.moves.fast_enough(
                rng, child, lambda levels: scale * self.tables.latency_ms(levels), MARGIN * self.judge.limits.target_ms
            )
            if child.tobytes() not in seen:
                break
        found: LevelArray = child
        return found

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random level for a parameter outside the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Do nothing: the stream depends on the trial's number."""

    def _parents(self, history: History) -> tuple[LevelArray, Numbers]:
        """Return the feasible front and the weight of each parent; without a front, the trials nearest to it."""
        if history.feasible.any():
            points = history.objectives[history.feasible]
            front = np.flatnonzero(non_dominated(points))
            return history.levels[history.feasible][front], 0.3 + np.minimum(crowding(points[front]), 4.0)
        timed = np.flatnonzero(np.isfinite(history.latency_ms))
        if len(timed):
            nearest = timed[history.latency_ms[timed].argsort(kind="stable")[:4]]
            return history.levels[nearest], np.ones(len(nearest))
        return np.where(self.tables.compressing, self.tables.sizes // 2, 0)[None], np.ones(1)


def crowding(points: Numbers) -> Numbers:
    """Return the crowding distance of each point of a front, as in NSGA-II (Deb et al., IEEE TEC 2002).

    Args:
        points: shape (points, objectives).

    Returns:
        Shape (points,); infinite at the ends of each objective.

    """
    distance = np.zeros(len(points))
    for column in points.T:
        order = column.argsort(kind="stable")
        span = max(float(column[order[-1]] - column[order[0]]), 1e-12)
        distance[order[[0, -1]]] = np.inf
        distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance
