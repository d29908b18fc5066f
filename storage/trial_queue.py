"""The trials of a study that wait to be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from ..pareto.model import STUDENT
from ..spaces.candidate import Candidate
from ..spaces.space import Space

REPEATS = "retry_of"
"""Attribute of a trial that repeats another: the other one's number."""


class TrialQueue:
    """The waiting trials of a study; those that repeat an earlier trial run before new ones.

    Args:
        study: the study.
        space: what may vary.

    """

    def __init__(self, study: optuna.Study, space: Space) -> None:
        self._study = study
        self._space = space

    def add(self, candidate: Candidate, role: str) -> None:
        """Enqueue a candidate that no trial has; the unchanged student has the same candidate as the baseline."""
        levels = self._space.levels(candidate)
        self._study.enqueue_trial(levels, user_attrs={"role": role}, skip_if_exists=role != STUDENT)

    def repeat(self, number: int, role: str, levels: Mapping[str, Any], **attrs: object) -> None:
        """Enqueue a trial again."""
        self._study.enqueue_trial(dict(levels), user_attrs={"role": role, **attrs, REPEATS: number})

    def repeated(self) -> set[int]:
        """Return the numbers of the trials that another one repeats."""
        return {t.user_attrs[REPEATS] for t in self._study.get_trials(deepcopy=False) if REPEATS in t.user_attrs}

    def awaits(self, role: str) -> bool:
        """Return whether a trial with a role is waiting."""
        return any(trial.user_attrs.get("role") == role for trial in self._waiting())

    def start_repeat(self) -> optuna.Trial | None:
        """Start the first trial that repeats another; Optuna itself would start the oldest that waits."""
        return self._start(lambda attrs: REPEATS in attrs)

    def start_repeat_of(self, number: int) -> optuna.Trial | None:
        """Start the trial that repeats a certain one, unless some driver has."""
        return self._start(lambda attrs: attrs.get(REPEATS) == number)

    def _start(self, wanted: Callable[[Mapping[str, Any]], bool]) -> optuna.Trial | None:
        for waiting in self._waiting():
            if wanted(waiting.user_attrs) and self._claim(waiting):
                trial = optuna.Trial(self._study, waiting._trial_id)
                for name, size in self._space.sizes.items():
                    trial.suggest_int(name, 0, size - 1)
                return trial
        return None

    def _claim(self, waiting: FrozenTrial) -> bool:
        """Set a waiting trial to running; return whether no other driver was faster."""
        with suppress(UpdateFinishedTrialError):
            return self._study._storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING)
        return False

    def _waiting(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's description of a space: one integer a choice, the index of its level."""
    return {name: IntDistribution(0, size - 1) for name, size in space.sizes.items()}
