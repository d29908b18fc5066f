"""The Optuna study behind a run: opened anew or gone on with, and nothing that was finished is ever lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..evaluators.measurement import Infeasible, Measurement, Outcome, from_json, to_json
from ..spaces.candidate import Candidate
from ..spaces.space import Space
from .front import Model, objectives
from .samplers.mutation import distributions
from .storage import close_storage, open_storage
from .warmstart import BASELINE, STUDENT, Start

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE)
"""Of accuracy, latency in milliseconds, and size in bytes."""

ATTEMPTS = 3
"""How often a trial is begun whose worker dies, before it is infeasible."""


@dataclass(frozen=True)
class Asked:
    """A trial to evaluate: its number, its candidate, its role in the report, how often it was begun before."""

    number: int
    candidate: Candidate
    role: str
    attempt: int


class Store:
    """A study on disk or in a database, in our own words.

    Args:
        folder: the run directory, which holds the study unless ``url`` does.
        url: a database that Optuna knows.
        name: the study's name in it.
        space: what may vary.
        target_ms: the latency constraint.
        student: whether a student is compressed, so that the baseline is another network than the same candidate's.

    """

    def __init__(
        self, folder: Path, url: str | None, name: str, space: Space, target_ms: float, *, student: bool = False
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self.target_ms = target_ms
        self.student = student
        self._storage = open_storage(folder, url)
        self.study = optuna.create_study(
            study_name=name, storage=self._storage, directions=list(DIRECTIONS), load_if_exists=True
        )
        self._asked: dict[int, optuna.Trial] = {}

    def begin(self, starts: Sequence[Start]) -> None:
        """Enqueue the warm start of a new study; put trials back that have to be begun again.

        Those are the ones that were running when their driver died, and those that were cut for a stricter target.
        """
        if not self.study.user_attrs.get("begun"):
            for start in starts:
                levels = self.space.levels(start.candidate)
                twin = start.role == STUDENT  # of the baseline, whose levels it has
                self.study.enqueue_trial(levels, user_attrs={"role": start.role}, skip_if_exists=not twin)
            self.study.set_user_attr("begun", True)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.lost(trial.number, "the driver died")
        again = {trial.user_attrs.get("retry_of") for trial in self.study.get_trials(deepcopy=False)}
        for trial in self.finished():
            if trial.number not in again and not self._holds(outcome(trial)):
                self.study.enqueue_trial(trial.params, user_attrs={"retry_of": trial.number})

    def ask(self) -> Asked:
        """Return a new trial; one that has to be begun again comes before all others."""
        trial = self._again() or self.study.ask(distributions(self.space))
        candidate = self.space.candidate(trial.params)
        trial.set_user_attr("candidate", candidate.to_json())
        self._asked[trial.number] = trial
        attrs = trial.user_attrs
        return Asked(trial.number, candidate, str(attrs.get("role", "")), int(attrs.get("attempt", 0)))

    def _again(self) -> optuna.Trial | None:
        """Begin the first trial that takes the place of another; Optuna would begin the oldest that waits."""
        for waiting in self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            if "retry_of" in waiting.user_attrs:
                self._storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING)
                trial = optuna.Trial(self.study, waiting._trial_id)
                for name, size in self.space.sizes.items():
                    trial.suggest_int(name, 0, size - 1)
                return trial
        return None

    def tell(self, number: int, outcome: Outcome) -> None:
        """Finish a trial."""
        trial = self._asked.pop(number)
        trial.set_user_attr("outcome", to_json(outcome))
        latency = outcome.latency
        if latency is not None:
            trial.set_user_attr("latency_ms", latency.median_ms)
        excess = 1.0 if latency is None else latency.high_ms / self.target_ms - 1
        trial.set_constraint("latency", excess)
        if isinstance(outcome, Measurement):
            self.study.tell(trial, list(objectives(outcome)))
        else:
            self.study.tell(trial, state=TrialState.PRUNED)

    def lost(self, number: int, why: str, *, counts: bool = True) -> None:
        """Give up a trial whose worker is gone, and enqueue it again unless that happened too often.

        Args:
            number: the trial's number.
            why: what happened to it.
            counts: whether the trial may be to blame.
        """
        self._asked.pop(number, None)
        trial = self._trial(number)
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
        kept = {"role": trial.user_attrs.get("role", ""), "attempt": attempt, "retry_of": number}
        self.study.enqueue_trial(levels, user_attrs=kept)  # first, so that a death between the two loses nothing
        self.study.tell(number, state=TrialState.FAIL)

    def outcome_of(self, candidate: Candidate, role: str = "") -> Outcome | None:
        """Return what is known of a candidate from an earlier trial of the same network."""
        wanted = candidate.to_json(), self._apart(role)
        for trial in self.finished():
            if self._identity(trial) == wanted and self._holds(found := outcome(trial)):
                return found
        return None

    def _identity(self, trial: FrozenTrial) -> tuple[str, bool]:
        """Return what two trials of the same thing have in common."""
        return str(trial.user_attrs["candidate"]), self._apart(str(trial.user_attrs.get("role", "")))

    def _apart(self, role: str) -> bool:
        return self.student and role == BASELINE

    def _holds(self, found: Outcome) -> bool:
        """Return whether an outcome is one for today's target too: not cut though it may meet that."""
        if isinstance(found, Measurement) or found.rung != "latency" or found.latency is None:
            return True
        return found.latency.low_ms > self.target_ms

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that have an outcome."""
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        return [t for t in self.study.get_trials(deepcopy=False, states=done) if "outcome" in t.user_attrs]

    def models(self) -> list[Model]:
        """Return every candidate that was measured to the end, once."""
        complete = (t for t in self.finished() if t.state == TrialState.COMPLETE)
        first: dict[tuple[str, bool], FrozenTrial] = {}
        for trial in complete:
            first.setdefault(self._identity(trial), trial)
        return [_model(trial) for trial in first.values()]

    def fastest_cut(self, count: int) -> list[Model]:
        """Return the fastest candidates that ended when they were timed, to be measured to the end after all."""
        cut = [t for t in self.finished() if t.state == TrialState.PRUNED and "latency_ms" in t.user_attrs]
        cut.sort(key=lambda t: float(t.user_attrs["latency_ms"]))
        return [_unmeasured(trial) for trial in cut[:count]]

    def role(self, number: int) -> str:
        """Return a trial's role in the report; empty for most."""
        return str(self._trial(number).user_attrs.get("role", ""))

    def model(self, number: int) -> Model:
        """Return one trial that was measured to the end."""
        return _model(self._trial(number))

    def close(self) -> None:
        """Let go of the database."""
        close_storage(self._storage)

    def _trial(self, number: int) -> FrozenTrial:
        return next(t for t in self.study.get_trials(deepcopy=False) if t.number == number)


def outcome(trial: FrozenTrial) -> Outcome:
    """Return a finished trial's outcome."""
    return from_json(trial.user_attrs["outcome"])


def _model(trial: FrozenTrial) -> Model:
    measurement = outcome(trial)
    assert isinstance(measurement, Measurement)
    role = trial.user_attrs.get("role") or "front"
    return Model(
        id=BASELINE if role == BASELINE else trial_name(trial.number),
        candidate=Candidate.from_json(trial.user_attrs["candidate"]),
        measurement=measurement,
        role=role,
        path=f"trials/{trial_name(trial.number)}",
    )


def _unmeasured(trial: FrozenTrial) -> Model:
    latency = outcome(trial).latency
    assert latency is not None
    unknown = Measurement(accuracy=float("-inf"), latency=latency, size_bytes=0, params=0, macs=0, rung="latency")
    candidate = Candidate.from_json(trial.user_attrs["candidate"])
    return Model(id=trial_name(trial.number), candidate=candidate, measurement=unknown)


def trial_name(number: int) -> str:
    """Return a trial's id, which is also the name of its folder."""
    return f"{number:05d}"
