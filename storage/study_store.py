"""The Optuna study behind a run, started or resumed; no finished trial is ever lost."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from ..errors import StorageError
from ..evaluators.measurement import Infeasible, Measurement, Measurements, Outcome, deciding, representative
from ..evaluators.outcome_json import from_json, to_json
from ..evaluators.raw_times import packed, thinned
from ..files import write_atomically
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, STUDENT, Model
from ..pareto.objectives import objectives
from ..spaces.candidate import Candidate
from ..spaces.space import Space
from .backends import close_storage, open_storage, open_study
from .ownership import TrialOwnership
from .parameters import distributions
from .repeated_failures import RepeatedFailures
from .trials import FinishedTrials, MeasuredModels, judged, trial_name, unmeasured
from .trials import outcome as outcome

ATTEMPTS = 3
"""How often a trial whose worker dies is started before it is infeasible."""


VOID = "void"
"""Attribute of a study with the trials whose outcomes no longer count."""

MOMENT_S = 0.2
"""Seconds between two queries of a database for others' finished trials."""


@dataclass(frozen=True)
class PendingTrial:
    """A trial to evaluate: its number, its candidate, its role in the report, and how often it was started before."""

    number: int
    candidate: Candidate
    role: str
    attempt: int


class StudyStore:
    """A study on disk or in a database, in terms of candidates and outcomes.

    Args:
        folder: run directory, which holds the study unless ``url`` does.
        url: URL of a database that Optuna supports.
        name: the study's name in it.
        space: what may vary.
        limits: limits that a model must meet.
        student: whether a student is compressed, so that the baseline is not the unchanged candidate's network.

    """

    def __init__(
        self, folder: Path, url: str | None, name: str, space: Space, limits: Limits, *, student: bool = False
    ) -> None:
        self.space = space
        self._limits = limits
        self._compared = limits.min_accuracy is None and limits.min_change is None
        self.student = student
        self._folder = folder
        self._storage = open_storage(folder, url)
        self.study = open_study(self._storage, name)
        self._asked: dict[int, optuna.Trial] = {}
        self._void = set(map(int, self.study.user_attrs.get(VOID, ())))
        self._told = 0
        self._drivers = TrialOwnership(self.study, self._storage, folder)
        self._ledger = FinishedTrials(self.study, self._identity, self._version)
        self.found = MeasuredModels(self._ledger, lambda: self.limits)

    @property
    def limits(self) -> Limits:
        """The current limits; accuracies are compared with the baseline's once that is known."""
        if not self._compared:
            outcomes = (outcome(t) for t in self.finished() if t.user_attrs.get("role") == BASELINE)
            baseline = next((found[0] for found in outcomes if not isinstance(found, Infeasible)), None)
            self._limits, self._compared = self._limits.against(baseline), baseline is not None
        return self._limits

    def feasible(self, trial: FrozenTrial) -> bool:
        """Return whether a trial meets the current limits; its stored constraints are those of its own time."""
        return trial.state == TrialState.COMPLETE and max(self.violations(trial).values()) <= 0

    def violations(self, trial: FrozenTrial) -> dict[str, float]:
        """Return the excess of a finished trial over each current limit; see `Limits.violations`."""
        return self.limits.violations(self._deciding(outcome(trial)))

    def _deciding(self, found: Outcome) -> Measurement | Infeasible:
        return found if isinstance(found, Infeasible) else deciding(found, self.limits.distance)

    @property
    def notice(self) -> Callable[[str], object]:
        """Called while the database is away."""
        return self._drivers.notice

    @notice.setter
    def notice(self, notice: Callable[[str], object]) -> None:
        self._drivers.notice = notice

    @property
    def begun(self) -> bool:
        """Whether the study has its initial design."""
        return bool(self.study.user_attrs.get("begun"))

    def begin(self, starts: Sequence[Start]) -> None:
        """Enqueue the initial design of a new study; requeue trials that must be started again.

        These are trials that were running when their driver died, that were stopped for stricter limits, that lack a
        measurement for a limit, and that failed alike, because the study has been fixed since.
        """
        with self._drivers.alone():
            if not self.begun:
                for start in starts:
                    levels = self.space.levels(start.candidate)
                    twin = start.role == STUDENT  # of the baseline, whose levels it has
                    self.study.enqueue_trial(levels, user_attrs={"role": start.role}, skip_if_exists=not twin)
                self.study.set_user_attr("place", uuid.uuid4().hex[:12])
                self.study.set_user_attr("begun", True)
            self._tell_kept()
            self._recover()
            again = self._begun_again()
            for trial in self.finished():
                if trial.number not in again and not self._holds(trial):
                    kept = {"role": trial.user_attrs.get("role", ""), "retry_of": trial.number}
                    self.study.enqueue_trial(trial.params, user_attrs=kept)

    def _holds(self, trial: FrozenTrial) -> bool:
        """Return whether the known outcome of a trial's candidate is all that is wanted now."""
        return trial.number not in self._void and self.limits.still_valid(outcome(trial))

    def recover(self) -> None:
        """Requeue trials whose driver died; call this from time to time if drivers share a study."""
        if self._drivers.several and self._drivers.orphans(self._asked.keys()):
            with self._drivers.alone():
                self._recover()

    def _recover(self) -> None:
        for trial in self._drivers.orphans(self._asked.keys()):
            if "outcome" in trial.user_attrs:  # its driver died while it told of it
                self._asked[trial.number] = optuna.Trial(self.study, trial._trial_id)
                self.tell(trial.number, outcome(trial))
            else:
                self.lost(trial.number, "the driver died")

    def _begun_again(self) -> set[int]:
        """Return the numbers of trials that another trial has replaced."""
        return {t.user_attrs["retry_of"] for t in self.study.get_trials(deepcopy=False) if "retry_of" in t.user_attrs}

    def ask(self) -> PendingTrial:
        """Return a new trial; those to be started again come first."""
        trial = self._again() or self.study.ask(distributions(self.space))
        self._drivers.take(trial)
        candidate = self.space.candidate(trial.params)
        trial.set_user_attr("candidate", candidate.to_json())
        self._asked[trial.number] = trial
        attrs = trial.user_attrs
        return PendingTrial(trial.number, candidate, str(attrs.get("role", "")), int(attrs.get("attempt", 0)))

    def _again(self) -> optuna.Trial | None:
        """Start the first trial that replaces another; Optuna would start the oldest waiting one."""
        for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if "retry_of" in waiting.user_attrs and self._claim(waiting):
                trial = optuna.Trial(self.study, waiting._trial_id)
                for name, size in self.space.sizes.items():
                    trial.suggest_int(name, 0, size - 1)
                return trial
        return None

    def awaits(self, role: str) -> bool:
        """Return whether a trial with a role still has to be started."""
        waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return any(trial.user_attrs.get("role") == role for trial in waiting)

    def _claim(self, waiting: FrozenTrial) -> bool:
        """Start a waiting trial; return whether no other driver was faster."""
        with suppress(UpdateFinishedTrialError):
            return self._storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING)
        return False

    def tell(self, number: int, outcome: Outcome) -> None:
        """Finish a trial. If its outcome cannot be stored, a file in the run directory keeps it for the next run.

        Raises:
            StorageError: the database is away.
            OSError: the journal cannot be written.
        """
        try:
            self._tell(self._asked[number], outcome)
        except (StorageError, OSError):
            with suppress(OSError):
                write_atomically(self._kept(number), to_json(outcome).encode())
            raise
        except UpdateFinishedTrialError:  # given up by another driver, to whom this one seemed dead
            self._tell_instead(number, outcome)
        self._told += 1
        self._drivers.leave(self._asked.pop(number))

    def _tell(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Write an outcome, and then that the trial has ended; in between it can be written again."""
        latency = representative(outcome).latency
        if latency is not None:
            trial.set_user_attr("readings", packed(outcome))
            trial.set_user_attr("latency_ms", latency.median_ms)
            trial.set_user_attr("high_ms", latency.high_ms)
        found = self._deciding(outcome)
        for name, violation in self.limits.violations(found).items():
            if name not in trial.constraints:
                trial.set_constraint(name, violation)
        trial.set_user_attr("outcome", to_json(thinned(outcome)))
        if isinstance(found, Measurement):
            self.study.tell(trial, list(objectives(found)))
        else:
            self.study.tell(trial, state=TrialState.PRUNED)

    def _tell_instead(self, number: int, outcome: Outcome) -> None:
        """Store an outcome for the trial that replaced another, unless someone has started it."""
        for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if waiting.user_attrs.get("retry_of") == number and self._claim(waiting):
                trial = optuna.Trial(self.study, waiting._trial_id)
                for name, size in self.space.sizes.items():
                    trial.suggest_int(name, 0, size - 1)
                trial.set_user_attr("candidate", self.space.candidate(trial.params).to_json())
                self._tell(trial, outcome)

    def _kept(self, number: int) -> Path:
        return self._folder / "untold" / f"{trial_name(number)}.json"

    def _tell_kept(self) -> None:
        """Store the outcomes that an earlier run of this directory could not."""
        for path in sorted((self._folder / "untold").glob("*.json")):
            found, trial = from_json(path.read_text()), self._trial(int(path.stem))
            if trial.state == TrialState.RUNNING:
                self._asked[trial.number] = optuna.Trial(self.study, trial._trial_id)
                self.tell(trial.number, found)
            else:
                self._tell_instead(trial.number, found)
            path.unlink()

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
        begun = "candidate" in trial.user_attrs  # else its driver died while it was asked for
        attempt = int(trial.user_attrs.get("attempt", 0)) + (counts and begun)
        levels = trial.params if begun else trial.system_attrs.get("fixed_params")
        if levels is None:  # nothing is lost
            self.study.tell(number, state=TrialState.FAIL)
            return
        if attempt >= ATTEMPTS:
            self._asked[number] = optuna.Trial(self.study, trial._trial_id)
            self.tell(number, Infeasible(reason=f"it was begun {attempt} times, and each time {why}", rung="build"))
            return
        if number not in self._begun_again():
            kept = {"role": trial.user_attrs.get("role", ""), "attempt": attempt, "retry_of": number}
            self.study.enqueue_trial(levels, user_attrs=kept)  # first: a death between the two loses nothing
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)

    def outcome_of(self, candidate: Candidate, role: str = "") -> Outcome | None:
        """Return the known outcome of a candidate from an earlier trial of the same network."""
        return next(map(outcome, filter(self._holds, self._same(candidate, role))), None)

    def measured(self, candidate: Candidate, role: str = "") -> Measurements:
        """Return the earlier measurement of a candidate, even if it lacks a value for a limit."""
        found = (outcome(trial) for trial in self._same(candidate, role) if trial.number not in self._void)
        return next((each for each in found if not isinstance(each, Infeasible)), ())

    def _same(self, candidate: Candidate, role: str) -> list[FrozenTrial]:
        return self._ledger.same((candidate.to_json(), self._apart(role)))

    def _identity(self, trial: FrozenTrial) -> tuple[str, bool]:
        """Return the identity of a trial's network and candidate."""
        return str(trial.user_attrs["candidate"]), self._apart(str(trial.user_attrs.get("role", "")))

    def _version(self) -> Hashable:
        """Return a version that changes when a trial may have finished: at once here, within a moment elsewhere."""
        if not self._drivers.several:
            return (self._folder / "study.journal").stat().st_size
        return self._told, int(time.monotonic() / MOMENT_S)

    def _apart(self, role: str) -> bool:
        return self.student and role == BASELINE

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that have an outcome."""
        return self._ledger.trials()

    def count(self) -> int:
        """Return the number of trials that have an outcome."""
        return len(self._ledger.update())

    def elsewhere(self) -> int:
        """Return the number of trials that other drivers are running."""
        if not self._drivers.several:
            return 0
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return sum(trial.number not in self._asked for trial in running)

    def models(self) -> list[Model]:
        """Return every completely measured candidate once, with its last measurement."""
        return self.found.all()

    def nearest_cut(self, count: int) -> list[Model]:
        """Return the candidates nearest to the limits among those stopped for them, to be measured completely."""
        timed = (unmeasured(t) for t in self.finished() if t.state == TrialState.PRUNED)
        known = [model for model in timed if model is not None]
        return sorted(known, key=lambda model: self.limits.distance(model.measurement))[:count]

    @property
    def place(self) -> str:
        """Name of the study's folder among others, including those of its name, where workers keep files."""
        return f"{self.study.study_name}/{self.study.user_attrs.get('place', '')}".rstrip("/")

    def candidates(self) -> dict[int, Outcome]:
        """Return the outcomes of trials that compress something, by number, without void ones."""
        return {
            trial.number: outcome(trial)
            for trial in self.finished()
            if trial.user_attrs.get("role") != BASELINE and trial.number not in self._void
        }

    def void(self, alike: RepeatedFailures) -> None:
        """Let the next run start trials again that failed for a reason that the user is asked to fix."""
        self.study.set_user_attr(VOID, sorted(self._void.union(alike.trials)))

    def role(self, number: int) -> str:
        """Return a trial's role in the report; empty for most."""
        return str(self._trial(number).user_attrs.get("role", ""))

    def model(self, number: int) -> Model:
        """Return one completely measured trial."""
        return judged(self._trial(number), self.limits)

    def close(self) -> None:
        """Close the database."""
        self._drivers.close()
        close_storage(self._storage)

    def _trial(self, number: int) -> FrozenTrial:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)
        return self.study._storage.get_trial(trial_id)


@dataclass(frozen=True)
class Start:
    """A candidate to start with; its role is empty unless it is a reference baseline of the report."""

    candidate: Candidate
    role: str = ""
