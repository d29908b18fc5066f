"""The finished trials and models of a study, read from its storage as they arrive, each once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import lru_cache

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from ..evaluators.measurement import Infeasible, Measurement, Measurements, Outcome, cut, ranked
from ..evaluators.outcome_json import from_json
from ..evaluators.raw_times import unpacked
from ..pareto.front import select
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model, devices_in, on_device
from ..spaces.candidate import Candidate

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class FinishedTrials:
    """The finished trials of a study; everything here is also in the storage.

    Args:
        study: the study, which other drivers may extend.
        identity: returns the identity of a trial's network and candidate.
        version: returns a value that changes with the storage; until then it is not read again.

    """

    def __init__(
        self, study: Study, identity: Callable[[FrozenTrial], Hashable], version: Callable[[], Hashable]
    ) -> None:
        self.identity = identity
        self._study = study
        self._version = version
        self._read: Hashable = None
        self._finished: dict[int, FrozenTrial] = {}
        self._same: defaultdict[Hashable, list[FrozenTrial]] = defaultdict(list)
        self._ended: set[int] = set()
        self._first_open = 0

    def update(self) -> list[FrozenTrial]:
        """Read the storage; return all finished trials, in the order in which they were found."""
        version = self._version()
        if version == self._read:
            return list(self._finished.values())
        self._read = version
        trials = self._study.get_trials(deepcopy=False)
        for trial in trials[self._first_open :]:
            if trial.state.is_finished() and trial.number not in self._ended:
                self._ended.add(trial.number)
                if trial.state in DONE and "outcome" in trial.user_attrs:
                    self._finished[trial.number] = trial
                    self._same[self.identity(trial)].append(trial)
        while self._first_open < len(trials) and trials[self._first_open].state.is_finished():
            self._first_open += 1
        return list(self._finished.values())

    def trials(self) -> list[FrozenTrial]:
        """Return the finished trials, by number."""
        return sorted(self.update(), key=lambda trial: trial.number)

    def same(self, identity: Hashable) -> list[FrozenTrial]:
        """Return the finished trials by identity."""
        self.update()
        return sorted(self._same.get(identity, ()), key=lambda trial: trial.number)


class MeasuredModels:
    """The models of a study and their front, updated with its finished trials.

    Args:
        ledger: the finished trials.
        limits: returns the current limits; when they change, everything is judged again.

    """

    def __init__(self, ledger: FinishedTrials, limits: Callable[[], Limits]) -> None:
        self._ledger = ledger
        self._limits = limits
        self._judged_by: Limits | None = None
        self._taken = 0
        self._models: dict[Hashable, Model] = {}
        self._front: list[Model] = []
        self._alone: dict[str, list[Model]] = {}
        self._references: list[Model] = []

    def all(self) -> list[Model]:
        """Return every completely measured candidate once, with its last measurement."""
        self._update()
        return sorted(self._models.values(), key=lambda model: model.path)

    def latest(self, count: int) -> list[Model]:
        """Return the latest measured models, the last one last."""
        self._update()
        return list(self._models.values())[-count:]

    def front(self) -> list[Model]:
        """Return the non-dominated models; the same list until it changes."""
        self._update()
        return self._front

    def alone(self) -> list[Model]:
        """Return the models that are non-dominated on one of several devices."""
        self._update()
        return [model for front in self._alone.values() for model in front]

    def references(self) -> list[Model]:
        """Return the models that have a role in the report."""
        self._update()
        return self._references

    def whole(self, model: Model) -> Model:
        """Return a model with its measurement's raw times."""
        limits, text = self._limits(), model.candidate.to_json()
        for trial in self._ledger.update():
            if trial.state == TrialState.COMPLETE and trial.user_attrs["candidate"] == text:
                found = judged(trial, limits)
                if found.measurements == model.measurements:
                    whole = unpacked(_measured(trial), trial.user_attrs.get("readings", ""))
                    return replace(model, measurements=ranked(whole, limits.distance))
        return model

    def _update(self) -> None:
        limits, trials = self._limits(), self._ledger.update()
        if limits != self._judged_by:
            self._judged_by, self._taken, self._models, self._references = limits, 0, {}, []
            self._front, self._alone = [], {}
        new, self._taken = trials[self._taken :], len(trials)
        added = []
        for trial in new:
            if trial.state == TrialState.COMPLETE:
                model, name = judged(trial, limits), self._ledger.identity(trial)
                before = self._models.get(name)
                self._models[name] = model if before is None else _again(before, model, limits)
                if before is None:
                    added.append(model)
                elif self._models[name] != before:
                    self._front, self._alone, added = [], {}, list(self._models.values())
        if added:
            self._references = [model for model in self._models.values() if model.role != "front"]
            self._front = selected([*self._front, *added], limits)
            for device in devices_in(added):
                here = [*self._alone.get(device, ()), *on_device(added, device)]
                self._alone[device] = selected(here, limits)


def _again(before: Model, model: Model, limits: Limits) -> Model:
    """Return a candidate's model after another trial: the first one's, with the last complete measurement.

    If the first one could not be trained, it was built again, and the last one's model is returned.
    """
    first, last = sorted((before, model), key=lambda each: each.path)
    if first.measurement.failure is not None:
        return last
    return first if limits.lacks_measurement(last.measurements) else replace(first, measurements=last.measurements)


def selected(models: Sequence[Model], limits: Limits) -> list[Model]:
    """Return the front of models. The front of a front and further models is that of all of them."""
    return [models[i] for i in select([m.measurement for m in models], limits)]


def outcome(trial: FrozenTrial) -> Outcome:
    """Return a finished trial's outcome, without its raw times."""
    return _read(trial.user_attrs["outcome"])


@lru_cache(maxsize=20_000)
def _read(text: str) -> Outcome:
    return from_json(text)


def trial_name(number: int) -> str:
    """Return a trial's id, which is also its folder's name."""
    return f"{number:05d}"


def judged(trial: FrozenTrial, limits: Limits) -> Model:
    """Return the model that a complete trial has measured; the limits say which measurement decides."""
    role = trial.user_attrs.get("role") or "front"
    return Model(
        id=BASELINE if role == BASELINE else trial_name(trial.number),
        candidate=Candidate.from_json(trial.user_attrs["candidate"]),
        measurements=ranked(_measured(trial), limits.distance),
        role=role,
        path=f"trials/{trial_name(trial.number)}",
    )


def _measured(trial: FrozenTrial) -> Measurements:
    """Return a complete trial's measurements."""
    found = outcome(trial)
    assert not isinstance(found, Infeasible)
    return found


def unmeasured(trial: FrozenTrial) -> Model | None:
    """Return a candidate that was stopped for a limit, with what is known of it; None if it ended otherwise."""
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
    return Model(id=trial_name(trial.number), candidate=candidate, measurements=(unknown,))
