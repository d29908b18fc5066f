"""The study behind a run, new or resumed: its trials are asked for, told and repeated, and no outcome is lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from ..errors import StorageError
from ..evaluators.measurement import Infeasible, Measurement, Outcome, representative
from ..evaluators.outcome_json import to_json
from ..evaluators.raw_times import packed, thinned
from ..pareto.limits import Limits
from ..pareto.objectives import objectives
from ..spaces.candidate import Candidate
from ..spaces.space import Space
from .backends import open_journal, open_study
from .ownership import TrialOwnership
from .repeated_failures import RepeatedFailures
from .study_results import VOID, StudyResults
from .trial_queue import TrialQueue, distributions
from .trials import outcome_of
from .undelivered import UndeliveredOutcomes

if TYPE_CHECKING:
    from .rdb import PatientRDBStorage

ATTEMPTS = 3
"""How often a trial is started whose worker dies, before it is infeasible."""

MOMENT_S = 0.2
"""Pause between two reads of a database that other drivers write to."""


@dataclass(frozen=True)
class Start:
    """A candidate to start a study with; its role is empty unless it is a reference baseline."""

    candidate: Candidate
    role: str = ""


@dataclass(frozen=True)
class PendingTrial:
    """A trial to evaluate: its number, its candidate, its role in the report, and how often it was started before."""

    number: int
    candidate: Candidate
    role: str
    attempt: int


class StudyStore(StudyResults):
    """A study that this process drives: it adds trials to the results.

    Args:
        folder: the run directory, which holds the study unless a database does.
        database: an open database that holds the study; the caller closes it.
        name: the study's name.
        space: what may vary.
        limits: what a model must meet.

    """

    def __init__(
        self, folder: Path, database: PatientRDBStorage | None, name: str, space: Space, limits: Limits
    ) -> None:
        self.space = space
        self._folder = folder
        self._storage = open_journal(folder) if database is None else database
        super().__init__(open_study(self._storage, name), limits, self._version)
        self._asked: dict[int, optuna.Trial] = {}
        self._told = 0
        self._drivers = TrialOwnership(self.study, database, folder)
        self._queue = TrialQueue(self.study, space)
        self._undelivered = UndeliveredOutcomes(folder)

    def _version(self) -> Hashable:
        """Return a value that changes when a trial may have finished: here at once, elsewhere within a moment."""
        if not self._drivers.several:
            return (self._folder / "study.journal").stat().st_size
        return self._told, int(time.monotonic() / MOMENT_S)

    @property
    def notice(self) -> Callable[[str], object]:
        """Receives a message while the database is away."""
        return self._drivers.notice

    @notice.setter
    def notice(self, notice: Callable[[str], object]) -> None:
        self._drivers.notice = notice

    @property
    def place(self) -> str:
        """The study's folder in an artifact store, which may hold others of its name."""
        return f"{self.study.study_name}/{self.study.user_attrs.get('place', '')}".rstrip("/")

    @property
    def begun(self) -> bool:
        """Whether the first candidates were enqueued."""
        return bool(self.study.user_attrs.get("begun"))

    def begin(self, starts: Sequence[Start]) -> None:
        """Enqueue the first candidates of a new study, and repeat the trials of an earlier run that have to be.

        A trial is repeated if its driver died, if stricter limits stopped it, if it lacks a cost that is now limited,
        or if it failed for a reason that the user was asked to mend.
        """
        with self._drivers.alone():
            if not self.begun:
                for start in starts:
                    self._queue.add(start.candidate, start.role)
                self.study.set_user_attr("place", uuid.uuid4().hex[:12])
                self.study.set_user_attr("begun", True)
            self._undelivered.deliver(self._tell_late)
            self._recover()
            repeated = self._queue.repeated()
            for trial in self.finished():
                if trial.number not in repeated and not self.still_valid(trial):
                    self._queue.repeat(trial.number, trial.role, trial.levels)

    def recover(self) -> None:
        """Repeat the trials of drivers that died; call this now and then, since drivers may share a study."""
        if self._drivers.several and self._drivers.orphans(self._asked.keys()):
            with self._drivers.alone():
                self._recover()

    def _recover(self) -> None:
        for trial in self._drivers.orphans(self._asked.keys()):
            if "outcome" in trial.user_attrs:  # its driver died between the two steps of `_tell`
                self._asked[trial.number] = optuna.Trial(self.study, trial._trial_id)
                self.tell(trial.number, outcome_of(trial))
            else:
                self.lost(trial.number, "the driver died")

    def ask(self) -> PendingTrial:
        """Return a new trial; repeats come first."""
        trial = self._queue.start_repeat() or self.study.ask(distributions(self.space))
        self._drivers.take(trial)
        candidate = self.space.candidate(trial.params)
        trial.set_user_attr("candidate", candidate.to_json())
        self._asked[trial.number] = trial
        attrs = trial.user_attrs
        return PendingTrial(trial.number, candidate, str(attrs.get("role", "")), int(attrs.get("attempt", 0)))

    def awaits(self, role: str) -> bool:
        """Return whether a trial with a role is waiting."""
        return self._queue.awaits(role)

    def elsewhere(self) -> int:
        """Return the number of trials that other drivers are running."""
        if not self._drivers.several:
            return 0
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return sum(trial.number not in self._asked for trial in running)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Finish a trial. If the storage cannot be written, the run directory keeps the outcome for the next run.

        Raises:
            StorageError: the database is away.
            OSError: the journal cannot be written.
        """
        try:
            self._tell(self._asked[number], outcome)
        except (StorageError, OSError):
            self._undelivered.keep(number, outcome)
            raise
        except UpdateFinishedTrialError:  # another driver took this one for dead and gave the trial up
            self._tell_repeat(number, outcome)
        self._told += 1
        self._drivers.leave(self._asked.pop(number))

    def _tell(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Write an outcome, then the trial's state; a death between the two steps loses nothing."""
        latency = representative(outcome).latency
        if latency is not None:
            trial.set_user_attr("readings", packed(outcome))
            trial.set_user_attr("latency_ms", latency.median_ms)
            trial.set_user_attr("high_ms", latency.high_ms)
        found = self.judged(outcome)
        for name, violation in self.limits.violations(found).items():
            if name not in trial.constraints:
                trial.set_constraint(name, violation)
        trial.set_user_attr("outcome", to_json(thinned(outcome)))
        if isinstance(found, Measurement):
            self.study.tell(trial, list(objectives(found)))
        else:
            self.study.tell(trial, state=TrialState.PRUNED)

    def _tell_repeat(self, number: int, outcome: Outcome) -> None:
        """Tell the outcome of a trial that was given up to the trial that repeats it, unless a driver started that."""
        trial = self._queue.start_repeat_of(number)
        if trial is not None:
            trial.set_user_attr("candidate", self.space.candidate(trial.params).to_json())
            self._tell(trial, outcome)

    def _tell_late(self, number: int, outcome: Outcome) -> None:
        """Tell an outcome that an earlier run of this directory could not."""
        trial = self._trial(number)
        if trial.state == TrialState.RUNNING:
            self._asked[number] = optuna.Trial(self.study, trial._trial_id)
            self.tell(number, outcome)
        else:
            self._tell_repeat(number, outcome)

    def lost(self, number: int, why: str, *, counts: bool = True) -> None:
        """Give up a trial whose worker is gone, and enqueue it again unless that happened too often.

        Args:
            number: the trial's number.
            why: what happened to it.
            counts: whether the trial may be to blame.
        """
        mine = self._asked.pop(number, None)
        if mine is not None:
            self._drivers.leave(mine)
        trial = self._trial(number)
        if trial.state.is_finished():  # by another driver
            return
        complete = "candidate" in trial.user_attrs  # else its driver died while asking for it
        attempt = int(trial.user_attrs.get("attempt", 0)) + (counts and complete)
        levels = trial.params if complete else trial.system_attrs.get("fixed_params")
        if levels is None:  # nothing is lost
            self.study.tell(number, state=TrialState.FAIL)
            return
        if attempt >= ATTEMPTS:
            self._asked[number] = optuna.Trial(self.study, trial._trial_id)
            self.tell(number, Infeasible(reason=f"it was started {attempt} times, and each time {why}", rung="build"))
            return
        if number not in self._queue.repeated():  # first: a death between the two steps loses nothing
            self._queue.repeat(number, str(trial.user_attrs.get("role", "")), levels, attempt=attempt)
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)

    def void(self, alike: RepeatedFailures) -> None:
        """Let the next run repeat trials that failed for a reason that the user is asked to mend."""
        self.study.set_user_attr(VOID, sorted(self._void.union(alike.trials)))

    def role(self, number: int) -> str:
        """Return a trial's role in the report; empty for most."""
        return str(self._trial(number).user_attrs.get("role", ""))

    def close(self) -> None:
        """Stop the heartbeats of this driver's trials."""
        self._drivers.close()

    def _trial(self, number: int) -> FrozenTrial:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        return self.study._storage.get_trial(trial_id)
