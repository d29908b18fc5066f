"""The stored trials of a study, read once each as they finish."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from ..evaluators.measurement import Outcome
from ..evaluators.outcome_json import from_json
from ..pareto.model import BASELINE, STUDENT
from ..spaces.candidate import Candidate
from ..spaces.space import Levels

DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of trials that have an outcome."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a study that has started.

    Attributes:
        number: its number.
        state: ``running``, ``complete``, ``pruned``, or ``fail`` for a trial that was started again.
        role: its role in the report; empty for most trials.
        levels: its candidate as a point of the space; see `Levels`.
        candidate: None if its driver died before the candidate was complete.
        outcome: None if there is none yet.
        began: when it started.
        ended: when it ended.
        readings: the clock readings of its latencies, which the outcome lacks; see `raw_times`.
    """

    number: int
    state: str
    role: str = ""
    levels: Levels = field(default_factory=dict)
    candidate: Candidate | None = None
    outcome: Outcome | None = None
    began: datetime | None = None
    ended: datetime | None = None
    readings: str = field(default="", repr=False)

    @property
    def id(self) -> str:
        """The name of its folder."""
        return trial_name(self.number)


def trial_name(number: int) -> str:
    """Return a trial's id, which is also the name of its folder."""
    return f"{number:05d}"


def read_trial(trial: FrozenTrial) -> Trial:
    """Return what Optuna has stored of a trial."""
    attrs = trial.user_attrs
    return Trial(
        number=trial.number,
        state=trial.state.name.lower(),
        role=str(attrs.get("role", "")),
        levels=trial.params,
        candidate=Candidate.from_json(attrs["candidate"]) if "candidate" in attrs else None,
        outcome=outcome_of(trial) if trial.state.is_finished() and "outcome" in attrs else None,
        began=trial.datetime_start,
        ended=trial.datetime_complete,
        readings=str(attrs.get("readings", "")),
    )


def started_trials(study: Study) -> tuple[Trial, ...]:
    """Return all trials of a study that have started, by number."""
    trials = study.get_trials(deepcopy=False)
    return tuple(read_trial(trial) for trial in trials if trial.state != TrialState.WAITING)


def outcome_of(trial: FrozenTrial) -> Outcome:
    """Return a finished trial's outcome, without clock readings."""
    return _parsed(trial.user_attrs["outcome"])


@lru_cache(maxsize=20_000)
def _parsed(text: str) -> Outcome:
    return from_json(text)


class FinishedTrials:
    """The trials of a study that have an outcome.

    Two trials are of the same network if they have the same candidate. Where a student is compressed, the baseline is
    an exception: it is the original network, though its candidate is that of the unchanged student.

    Args:
        study: the study; other drivers may add trials to it.
        version: returns a value that changes with the storage, which is read again only then.

    """

    def __init__(self, study: Study, version: Callable[[], Hashable]) -> None:
        self._study = study
        self._version = version
        self._read: Hashable = None
        self._finished: dict[int, Trial] = {}
        self._same: defaultdict[Hashable, list[Trial]] = defaultdict(list)
        self._ended: set[int] = set()
        self._first_open = 0
        self._student = False

    def update(self) -> list[Trial]:
        """Read the storage; return all finished trials, in the order in which they were found."""
        version = self._version()
        if version == self._read:
            return list(self._finished.values())
        self._read = version
        trials = self._study.get_trials(deepcopy=False)
        recent = trials[self._first_open :]
        self._student = self._student or any(trial.user_attrs.get("role") == STUDENT for trial in recent)
        for trial in recent:
            if trial.state.is_finished() and trial.number not in self._ended:
                self._ended.add(trial.number)
                if trial.state in DONE and "outcome" in trial.user_attrs:
                    found = self._finished[trial.number] = read_trial(trial)
                    self._same[self.network(found.candidate, found.role)].append(found)
        while self._first_open < len(trials) and trials[self._first_open].state.is_finished():
            self._first_open += 1
        return list(self._finished.values())

    def trials(self) -> list[Trial]:
        """Return the finished trials, by number."""
        return sorted(self.update(), key=lambda trial: trial.number)

    def same(self, candidate: Candidate, role: str) -> list[Trial]:
        """Return the finished trials of the same network, by number."""
        self.update()
        return sorted(self._same.get(self.network(candidate, role), ()), key=lambda trial: trial.number)

    def network(self, candidate: Candidate | None, role: str) -> Hashable:
        """Return a key that all trials of the same network share."""
        return candidate and candidate.to_json(), self._student and role == BASELINE
