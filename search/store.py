"""The Optuna study behind a run: opened anew or gone on with, and nothing that was finished is ever lost."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..evaluators.measurement import Infeasible, Measurement, Outcome, from_json, to_json
from ..spaces.candidate import Candidate
from ..spaces.space import Space
from .front import Model, objectives
from .limits import Limits, cut
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
        limits: what a model must meet.
        student: whether a student is compressed, so that the baseline is another network than the same candidate's.

    """

    def __init__(
        self, folder: Path, url: str | None, name: str, space: Space, limits: Limits, *, student: bool = False
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space = space
        self._limits = limits
        self.student = student
        self._storage = open_storage(folder, url)
        self.study = optuna.create_study(
            study_name=name, storage=self._storage, directions=list(DIRECTIONS), load_if_exists=True
        )
        self._asked: dict[int, optuna.Trial] = {}

    @property
    def limits(self) -> Limits:
        """What a model must meet today; a least change of accuracy is a least accuracy once the baseline's is known."""
        if self._limits.min_change is not None:
            baselines = (outcome(t) for t in self.finished() if t.user_attrs.get("role") == BASELINE)
            accuracies = (found.accuracy for found in baselines if isinstance(found, Measurement))
            self._limits = self._limits.against(next(accuracies, None))
        return self._limits

    def feasible(self, trial: FrozenTrial) -> bool:
        """Return whether a trial meets today's limits; the constraints that it keeps are those of its own day."""
        return trial.state == TrialState.COMPLETE and max(self.excesses(trial).values()) <= 0

    def excesses(self, trial: FrozenTrial) -> dict[str, float]:
        """Return by how much a finished trial misses each of today's limits; see `Limits.excesses`."""
        return self.limits.excesses(self._nearest(outcome(trial)))

    def _nearest(self, found: Outcome) -> Outcome:
        return self.limits.nearest(found) if isinstance(found, Measurement) else found

    def begin(self, starts: Sequence[Start]) -> None:
        """Enqueue the warm start of a new study; put trials back that have to be begun again.

        Those are the ones that were running when their driver died, those that were cut for stricter limits, and those
        of which something was not measured that a limit is about.
        """
        if not self.study.user_attrs.get("begun"):
            for start in starts:
                levels = self.space.levels(start.candidate)
                twin = start.role == STUDENT  # of the baseline, whose levels it has
                self.study.enqueue_trial(levels, user_attrs={"role": start.role}, skip_if_exists=not twin)
            self.study.set_user_attr("place", uuid.uuid4().hex[:12])
            self.study.set_user_attr("begun", True)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.lost(trial.number, "the driver died")
        again = {trial.user_attrs.get("retry_of") for trial in self.study.get_trials(deepcopy=False)}
        for trial in self.finished():
            if trial.number not in again and not self.limits.hold(outcome(trial)):
                kept = {"role": trial.user_attrs.get("role", ""), "retry_of": trial.number}
                self.study.enqueue_trial(trial.params, user_attrs=kept)

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
        nearest = self._nearest(outcome)
        for name, excess in self.limits.excesses(nearest).items():
            trial.set_constraint(name, excess)
        if isinstance(nearest, Measurement):
            self.study.tell(trial, list(objectives(nearest)))
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
        return next((found for found in self._outcomes(candidate, role) if self.limits.hold(found)), None)

    def measured(self, candidate: Candidate, role: str = "") -> Measurement | None:
        """Return what was measured of a candidate before, though something may be missing that a limit is about."""
        found = self._outcomes(candidate, role)
        return next((each for each in found if isinstance(each, Measurement)), None)

    def _outcomes(self, candidate: Candidate, role: str) -> Iterator[Outcome]:
        wanted = candidate.to_json(), self._apart(role)
        return (outcome(trial) for trial in self.finished() if self._identity(trial) == wanted)

    def _identity(self, trial: FrozenTrial) -> tuple[str, bool]:
        """Return what two trials of the same thing have in common."""
        return str(trial.user_attrs["candidate"]), self._apart(str(trial.user_attrs.get("role", "")))

    def _apart(self, role: str) -> bool:
        return self.student and role == BASELINE

    def finished(self) -> list[FrozenTrial]:
        """Return the trials that have an outcome."""
        done = (TrialState.COMPLETE, TrialState.PRUNED)
        return [t for t in self.study.get_trials(deepcopy=False, states=done) if "outcome" in t.user_attrs]

    def models(self) -> list[Model]:
        """Return every candidate that was measured to the end, once, by what was measured last."""
        found: dict[tuple[str, bool], Model] = {}
        for trial in self.finished():
            if trial.state == TrialState.COMPLETE:
                model = self._judged(trial)
                first = found.setdefault(self._identity(trial), model)
                if not self.limits.lack(model.measurement):
                    found[self._identity(trial)] = replace(first, measurement=model.measurement)
        return list(found.values())

    def nearest_cut(self, count: int) -> list[Model]:
        """Return the candidates nearest to the limits of those that were cut, to be measured to the end after all."""
        timed = (_unmeasured(t) for t in self.finished() if t.state == TrialState.PRUNED)
        known = [model for model in timed if model is not None]
        return sorted(known, key=lambda model: self.limits.distance(model.measurement))[:count]

    @property
    def place(self) -> str:
        """The study's folder among others, also of its name, where workers keep files."""
        return f"{self.study.study_name}/{self.study.user_attrs.get('place', '')}".rstrip("/")

    def role(self, number: int) -> str:
        """Return a trial's role in the report; empty for most."""
        return str(self._trial(number).user_attrs.get("role", ""))

    def model(self, number: int) -> Model:
        """Return one trial that was measured to the end."""
        return self._judged(self._trial(number))

    def again(self, number: int) -> bool:
        """Return whether a trial takes the place of another."""
        return "retry_of" in self._trial(number).user_attrs

    def _judged(self, trial: FrozenTrial) -> Model:
        model = _model(trial)
        return replace(model, measurement=self.limits.nearest(model.measurement))

    def close(self) -> None:
        """Let go of the database."""
        close_storage(self._storage)

    def _trial(self, number: int) -> FrozenTrial:
        return next(t for t in self.study.get_trials(deepcopy=False) if t.number == number)


def outcome(trial: FrozenTrial) -> Outcome:
    """Return a finished trial's outcome."""
    return _read(trial.user_attrs["outcome"])


@lru_cache(maxsize=4096)
def _read(text: str) -> Outcome:
    return from_json(text)


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


def _unmeasured(trial: FrozenTrial) -> Model | None:
    """Return a candidate that was cut for a limit, with what is known of it; None where it ended otherwise."""
    found = outcome(trial)
    if not isinstance(found, Infeasible) or found.latency is None or not cut(found):
        return None
    unknown = Measurement(
        accuracy=float("-inf"),
        latency=found.latency,
        size_bytes=found.size_bytes or 0,
        params=0,
        macs=0,
        rung=found.rung,
        memory_bytes=found.memory_bytes,
        energy_mj=found.energy_mj,
    )
    candidate = Candidate.from_json(trial.user_attrs["candidate"])
    return Model(id=trial_name(trial.number), candidate=candidate, measurement=unknown)


def trial_name(number: int) -> str:
    """Return a trial's id, which is also the name of its folder."""
    return f"{number:05d}"
