"""What the finished trials of a study say, judged by the limits that hold now."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import optuna

from ..evaluators.measurement import Infeasible, Measurement, Measurements, Outcome, deciding
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model
from ..spaces.candidate import Candidate
from .measured_models import MeasuredModels, stopped_model
from .trials import FinishedTrials, Trial

VOID = "void"
"""Attribute of a study: numbers of the trials whose outcome no longer counts."""


class StudyResults:
    """The outcomes of a study, and the models among them.

    Attributes:
        found: the measured models and their front.

    Args:
        study: the study.
        limits: what a model must meet.
        version: returns a value that changes with the storage, which is read again only then.

    """

    def __init__(self, study: optuna.Study, limits: Limits, version: Callable[[], Hashable]) -> None:
        self.study = study
        self._limits = limits
        self._compared = limits.min_accuracy is None and limits.min_change is None
        self._void = set(map(int, study.user_attrs.get(VOID, ())))
        self._finished = FinishedTrials(study, version)
        self.found = MeasuredModels(self._finished, lambda: self.limits)

    @property
    def limits(self) -> Limits:
        """What a model must meet now; once the baseline is measured, accuracies are compared to its own."""
        if not self._compared:
            outcomes = (trial.outcome for trial in self.finished() if trial.role == BASELINE)
            baseline = next((found[0] for found in outcomes if isinstance(found, tuple)), None)
            self._limits, self._compared = self._limits.against(baseline), baseline is not None
        return self._limits

    def feasible(self, outcome: Outcome) -> bool:
        """Return whether an outcome meets the limits that hold now."""
        found = self.judged(outcome)
        return isinstance(found, Measurement) and self.limits.satisfied_by(found)

    def judged(self, outcome: Outcome) -> Measurement | Infeasible:
        """Return the measurement that decides by the limits that hold now, or the reason that there is none."""
        return outcome if isinstance(outcome, Infeasible) else deciding(outcome, self.limits.distance)

    def finished(self) -> list[Trial]:
        """Return the trials that have an outcome, by number."""
        return self._finished.trials()

    def count(self) -> int:
        """Return the number of trials that have an outcome."""
        return len(self._finished.update())

    def candidates(self) -> dict[int, Outcome]:
        """Return the outcomes that count, by trial, without the baseline's."""
        return {
            trial.number: trial.outcome
            for trial in self.finished()
            if trial.outcome is not None and trial.role != BASELINE and trial.number not in self._void
        }

    def outcome_of(self, candidate: Candidate, role: str = "") -> Outcome | None:
        """Return the outcome of an earlier trial of the same network, if it is valid for the current limits."""
        return next((t.outcome for t in self._finished.same(candidate, role) if self.still_valid(t)), None)

    def still_valid(self, trial: Trial) -> bool:
        """Return whether a finished trial need not be repeated for the current limits."""
        return trial.outcome is not None and trial.number not in self._void and self.limits.still_valid(trial.outcome)

    def measured(self, candidate: Candidate, role: str = "") -> Measurements:
        """Return earlier measurements of the same network, though they may lack a cost that is now limited."""
        found = (t.outcome for t in self._finished.same(candidate, role) if t.number not in self._void)
        return next((each for each in found if isinstance(each, tuple)), ())

    def models(self) -> list[Model]:
        """Return every completely measured candidate, once, with its last measurement."""
        return self.found.all()

    def nearest_cut(self, count: int) -> list[Model]:
        """Return the candidates nearest to the limits among those that a limit stopped."""
        stopped = [model for trial in self.finished() if (model := stopped_model(trial)) is not None]
        return sorted(stopped, key=lambda model: self.limits.distance(model.measurement))[:count]
