"""Reads the history of a study: its trials as arrays. Keeps nothing that cannot be read again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from ...evaluators.measurement import Infeasible, Outcome, known
from ...pareto.limits import Limits
from ...storage.trials import outcome_of
from .encoding import EncodedSpace, LevelArray, Numbers


class FeasibilityRule(Protocol):
    """Knows the current limits."""

    @property
    def limits(self) -> Limits:
        """The current limits."""
        ...

    def feasible(self, outcome: Outcome) -> bool:
        """Return whether the outcome of a finished trial meets them."""
        ...


@dataclass(frozen=True)
class History:
    """The trials of a study in the order of their numbers; NaN where something was not measured.

    Attributes:
        levels: of finished trials, shape (trials, choices).
        accuracy: shape (trials,).
        latency_ms: shape (trials,).
        high_ms: the upper end of the latency's interval, shape (trials,).
        size_bytes: shape (trials,).
        memory_bytes: shape (trials,).
        energy_mj: shape (trials,).
        feasible: whether a trial was measured completely and meets the current limits, shape (trials,).
        baseline: index of the unchanged network's trial; None if it was not measured.
        others: points that are being evaluated or queued, shape (others, choices).

    """

    levels: LevelArray
    accuracy: Numbers
    latency_ms: Numbers
    high_ms: Numbers
    size_bytes: Numbers
    memory_bytes: Numbers
    energy_mj: Numbers
    feasible: NDArray[np.bool_]
    baseline: int | None
    others: LevelArray

    @property
    def seen(self) -> set[bytes]:
        """All points, so that none is proposed twice."""
        return {row.tobytes() for levels in (self.levels, self.others) for row in levels}

    @property
    def objectives(self) -> Numbers:
        """The objectives of a study, all to be minimised, shape (trials, 3)."""
        return np.stack([-self.accuracy, self.latency_ms, self.size_bytes], axis=1)


Row = tuple[LevelArray, float, float, float, float, float, float]


class Reader:
    """Reads the history of a study. Finished trials never change, so each is read and judged once.

    Args:
        tables: the space.
        judge: says which trials meet the limits.

    """

    def __init__(self, tables: EncodedSpace, judge: FeasibilityRule) -> None:
        self.tables = tables
        self.judge = judge
        self._rows: dict[int, Row] = {}
        self._feasible: dict[int, bool] = {}
        self._judged_by: Limits | None = None

    def read(self, study: Study, trial: FrozenTrial) -> History:
        """Return the history before a trial."""
        finished, others = [], [np.zeros((0, len(self.tables.sizes)), dtype=np.int64)]
        for each in study.get_trials(deepcopy=False):
            if each.state in (TrialState.COMPLETE, TrialState.PRUNED):
                finished.append(each)
            elif not each.state.is_finished() and each.number != trial.number:
                levels = each.params or each.system_attrs.get("fixed_params")
                if levels:
                    others.append(self.tables.canonical(self.tables.row(levels)))
        rows = [self._row(each) for each in finished]
        levels, *columns = zip(*rows, strict=True) if rows else ([others[0]], *([],) * 6)
        accuracy, latency_ms, high_ms, size_bytes, memory_bytes, energy_mj = (
            np.array(column, dtype=float) for column in columns
        )
        roles = [each.user_attrs.get("role") for each in finished]
        return History(
            levels=np.concatenate(levels),
            accuracy=accuracy,
            latency_ms=latency_ms,
            high_ms=high_ms,
            size_bytes=size_bytes,
            memory_bytes=memory_bytes,
            energy_mj=energy_mj,
            feasible=self._judged(finished),
            baseline=next((i for i, role in enumerate(roles) if role == "baseline" and np.isfinite(accuracy[i])), None),
            others=np.concatenate(others),
        )

    def _judged(self, finished: list[FrozenTrial]) -> NDArray[np.bool_]:
        """Return which trials meet the limits; each is judged once, until the limits change."""
        if self._judged_by != self.judge.limits:
            self._judged_by, self._feasible = self.judge.limits, {}
        for trial in finished:
            if trial.number not in self._feasible:
                complete = trial.state == TrialState.COMPLETE
                self._feasible[trial.number] = complete and self.judge.feasible(outcome_of(trial))
        return np.array([self._feasible[trial.number] for trial in finished], dtype=bool)

    def _row(self, trial: FrozenTrial) -> Row:
        if trial.number not in self._rows:
            nothing = float("nan")
            accuracy = trial.values[0] if trial.values else nothing
            latency_ms = trial.user_attrs.get("latency_ms", nothing)
            high_ms = trial.user_attrs.get("high_ms", latency_ms)
            size_bytes = trial.values[2] if trial.values else _known(trial, "size")
            others = _known(trial, "memory"), _known(trial, "energy")
            levels = self.tables.canonical(self.tables.row(trial.params))
            self._rows[trial.number] = (levels, accuracy, latency_ms, high_ms, size_bytes, *others)
        return self._rows[trial.number]


def _known(trial: FrozenTrial, name: str) -> float:
    """Return a cost of a finished trial, the largest of its deployments; NaN if it was not measured."""
    if "outcome" not in trial.user_attrs:
        return float("nan")
    found = outcome_of(trial)
    each = (found,) if isinstance(found, Infeasible) else found
    return max((float(value) for one in each if (value := known(one, name)) is not None), default=float("nan"))
