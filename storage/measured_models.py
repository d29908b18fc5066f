"""The measured models of a study and their front, kept up to date as trials finish."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

from ..evaluators.measurement import Infeasible, Measurement, Measurements, cut, ranked
from ..evaluators.raw_times import unpacked
from ..pareto.front import select
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model, devices_in, on_device
from .trials import FinishedTrials, Trial


class MeasuredModels:
    """The measured models of a study, each once, and their front.

    Args:
        finished: the finished trials.
        limits: returns the current limits; a change makes all models be judged again.

    """

    def __init__(self, finished: FinishedTrials, limits: Callable[[], Limits]) -> None:
        self._finished = finished
        self._limits = limits
        self._judged_by: Limits | None = None
        self._taken = 0
        self._models: dict[Hashable, Model] = {}
        self._front: list[Model] = []
        self._alone: dict[str, list[Model]] = {}
        self._references: list[Model] = []

    def all(self) -> list[Model]:
        """Return every completely measured candidate, once, with its last measurement."""
        self._update()
        return sorted(self._models.values(), key=lambda model: model.path)

    def latest(self, count: int) -> list[Model]:
        """Return the models that were measured last, in the order of their trials."""
        self._update()
        return list(self._models.values())[-count:]

    def front(self) -> list[Model]:
        """Return the non-dominated models; the same list until it changes."""
        self._update()
        return self._front

    def alone(self) -> list[Model]:
        """Return the models that are non-dominated on at least one of several devices."""
        self._update()
        return [model for front in self._alone.values() for model in front]

    def references(self) -> list[Model]:
        """Return the models that have a role in the report."""
        self._update()
        return self._references

    def whole(self, model: Model) -> Model:
        """Return a model whose measurement has its clock readings."""
        limits = self._limits()
        for trial in self._finished.same(model.candidate, model.role):
            found = trial.outcome
            if isinstance(found, tuple) and ranked(found, limits.distance) == model.measurements:
                return replace(model, measurements=ranked(unpacked(found, trial.readings), limits.distance))
        return model

    def _update(self) -> None:
        limits, trials = self._limits(), self._finished.update()
        if limits != self._judged_by:
            self._judged_by, self._taken, self._models, self._references = limits, 0, {}, []
            self._front, self._alone = [], {}
        new, self._taken = trials[self._taken :], len(trials)
        added = []
        for trial in new:
            if isinstance(trial.outcome, tuple):
                model = _model(trial, trial.outcome, limits)
                network = self._finished.network(trial.candidate, trial.role)
                before = self._models.get(network)
                self._models[network] = model if before is None else _again(before, model, limits)
                if before is None:
                    added.append(model)
                elif self._models[network] != before:
                    self._front, self._alone, added = [], {}, list(self._models.values())
        if added:
            self._references = [model for model in self._models.values() if model.role != "front"]
            self._front = selected([*self._front, *added], limits)
            for device in devices_in(added):
                here = [*self._alone.get(device, ()), *on_device(added, device)]
                self._alone[device] = selected(here, limits)


def _again(before: Model, model: Model, limits: Limits) -> Model:
    """Return a candidate's model after another trial: the first trial's, with the last measurement if it is complete.

    If the first trial could not be trained, the last one was built again, and the model is the last one's.
    """
    first, last = sorted((before, model), key=lambda each: each.path)
    if first.measurement.failure is not None:
        return last
    return first if limits.lacks_measurement(last.measurements) else replace(first, measurements=last.measurements)


def selected(models: Sequence[Model], limits: Limits) -> list[Model]:
    """Return the front of models; the front of an earlier front and further models is the front of all."""
    return [models[i] for i in select([m.measurement for m in models], limits)]


def _model(trial: Trial, measurements: Measurements, limits: Limits) -> Model:
    assert trial.candidate is not None
    return Model(
        id=BASELINE if trial.role == BASELINE else trial.id,
        candidate=trial.candidate,
        measurements=ranked(measurements, limits.distance),
        role=trial.role or "front",
        path=f"trials/{trial.id}",
    )


def stopped_model(trial: Trial) -> Model | None:
    """Return the candidate of a trial that a limit stopped, with its known costs; None if the trial ended otherwise."""
    found = trial.outcome
    if not isinstance(found, Infeasible) or found.latency is None or not cut(found) or trial.candidate is None:
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
    return Model(id=trial.id, candidate=trial.candidate, measurements=(unknown,))
