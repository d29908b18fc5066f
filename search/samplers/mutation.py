"""Mutation of the front: a child of one or two models of the front, made fast enough for the target.

The sampler is stateless: everything is read from the study at each call, and the random stream depends on the seed
and the trial's number alone. So a study that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ...spaces.candidate import Candidate
from ...spaces.space import Space
from ..front import non_dominated

Predict = Callable[[Candidate], float]
Levels = dict[str, int]

MARGIN = 0.97
"""Children aim at this share of the target, so that the interval's upper end meets it too."""

RECENT = 60
"""The prediction is scaled by the median error over this many trials."""


class MutationSampler(BaseSampler):
    """Proposes children of the front.

    Args:
        space: what may vary.
        predict: predicts a candidate's latency in milliseconds; only the order and the scale matter.
        target_ms: the latency constraint.
        seed: of the random stream.
        rate: mean number of choices that a child changes.

    """

    def __init__(self, space: Space, *, predict: Predict, target_ms: float, seed: int, rate: float = 3.0) -> None:
        self.space = space
        self.predict = predict
        self.target_ms = target_ms
        self.seed = seed
        self.rate = rate
        self.names = list(space.sizes)
        self.sizes = np.array(list(space.sizes.values()))
        self._independent = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return distributions(self.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the levels of a child whose candidate no trial has had."""
        if "fixed_params" in trial.system_attrs:  # the trial was enqueued with a candidate of its own
            return {}
        rng = np.random.default_rng([self.seed, trial.number])
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number and t.params]
        seen = {self._text(t) for t in trials}
        parents, weights = self._parents(study, trials)
        scale = self._scale(trials)
        child = self._child(rng, parents, weights, scale)
        for _ in range(50):
            if self.space.candidate(child).to_json() not in seen:
                break
            child = self._child(rng, parents, weights, scale)
        return dict(child)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a random level, for a parameter that is not of the space."""
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Do nothing: the stream depends on the trial's number."""

    def _key(self, levels: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(int(levels.get(name, 0)) for name in self.names)

    def _text(self, trial: FrozenTrial) -> str:
        """Return a trial's candidate; points that differ in a setting of an absent axis alone have the same."""
        known = trial.user_attrs.get("candidate")
        return self.space.candidate(trial.params).to_json() if known is None else str(known)

    def _parents(self, study: Study, trials: Sequence[FrozenTrial]) -> tuple[list[Levels], np.ndarray[Any, Any]]:
        """Return the feasible front and how often each should be a parent; without one, the trials nearest to it."""
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        feasible = [t for t in complete if all(violation <= 0 for violation in t.constraints.values())]
        if feasible:
            signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
            points = np.array([t.values for t in feasible]) * signs
            keep = np.flatnonzero(non_dominated(points))
            return [feasible[i].params for i in keep], 0.3 + np.minimum(crowding(points[keep]), 4.0)
        timed = [t for t in trials if "latency_ms" in t.user_attrs]
        if timed:
            nearest = sorted(timed, key=lambda t: float(t.user_attrs["latency_ms"]))[:4]
            return [t.params for t in nearest], np.ones(len(nearest))
        halfway = {c.name: len(c.levels) // 2 if c.neutral is not None else 0 for c in self.space.choices}
        return [halfway], np.ones(1)

    def _scale(self, trials: Sequence[FrozenTrial]) -> float:
        timed = [t for t in trials if "latency_ms" in t.user_attrs][-RECENT:]
        errors = [t.user_attrs["latency_ms"] / self.predict(self.space.candidate(t.params)) for t in timed]
        return float(np.median(errors)) if errors else 1.0

    def _child(
        self, rng: np.random.Generator, parents: list[Levels], weights: np.ndarray[Any, Any], scale: float
    ) -> Levels:
        odds = weights / weights.sum()
        genes = np.array(self._key(parents[rng.choice(len(parents), p=odds)]))
        if len(parents) > 1 and rng.random() < 0.35:
            other = np.array(self._key(parents[rng.choice(len(parents), p=odds)]))
            genes = np.where(rng.random(len(genes)) < 0.5, genes, other)
        mattering = self._mattering(genes)
        changes = min(1 + rng.poisson(self.rate - 1), len(mattering))
        for i in rng.choice(mattering, changes, replace=False):
            genes[i] = np.clip(genes[i] + rng.choice([-2, -1, 1, 2]), 0, self.sizes[i] - 1)
        return self._fast_enough(rng, self._levels(genes), scale)

    def _levels(self, genes: np.ndarray[Any, Any]) -> Levels:
        return dict(zip(self.names, genes.tolist(), strict=True))

    def _mattering(self, genes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the places of the choices that a candidate states; a setting of an absent axis changes nothing."""
        candidate = self.space.candidate(self._levels(genes))
        return np.flatnonzero([not choice.needs or bool(candidate[choice.needs]) for choice in self.space.choices])

    def _fast_enough(self, rng: np.random.Generator, levels: Levels, scale: float) -> Levels:
        """Strengthen random choices until the predicted latency meets the target."""
        now_ms = self.predict(self.space.candidate(levels)) * scale
        for name in rng.permutation([choice.name for choice in self.space.choices if choice.neutral is not None] * 3):
            if now_ms <= MARGIN * self.target_ms:
                break
            if levels[name] + 1 < self.space.sizes[name]:
                stronger = {**levels, str(name): levels[name] + 1}
                then_ms = self.predict(self.space.candidate(stronger)) * scale
                if then_ms < now_ms:
                    levels, now_ms = stronger, then_ms
        return levels


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's description of a space: one integer a choice, the index of its level."""
    return {name: IntDistribution(0, size - 1) for name, size in space.sizes.items()}


def crowding(points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return how lonely each point of a front is: the crowding distance of NSGA-II (Deb et al., IEEE TEC 2002).

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
