"""A measured model, and models in each deployment that they were measured in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..evaluators.measurement import Measurement, Measurements, best_on_each_device
from ..evaluators.scores import standard_error
from ..spaces.candidate import Candidate
from .limits import Limits


@dataclass(frozen=True, kw_only=True)
class Model:
    """A measured model: a point of the front, the baseline, or one of the reference baselines.

    Attributes:
        id: ``baseline``, or the trial's number in five digits.
        measurements: one for each deployment, the deciding one first; see `ranked`.
        role: ``front``, ``baseline``, or the name of a reference baseline such as ``uniform int8``.
        path: the folder with its files, relative to the run directory; empty where none are kept.

    """

    id: str
    candidate: Candidate
    measurements: Measurements
    role: str = "front"
    path: str = ""

    @property
    def measurement(self) -> Measurement:
        """The measurement that decides: with the best runtime of the device where the model does worst."""
        return self.measurements[0]


def at_each_deployment(models: Iterable[Model]) -> list[Model]:
    """Return models once for each deployment that they were measured in."""
    return [replace(model, measurements=(measured,)) for model in models for measured in model.measurements]


def devices_in(models: Iterable[Model]) -> list[str]:
    """Return the devices that models were measured on, where there are several."""
    names = dict.fromkeys(measured.deployment.device for model in models for measured in model.measurements)
    return list(names) if len(names) > 1 else []


def on_device(models: Iterable[Model], device: str) -> list[Model]:
    """Return models as if there were one device only; those that were not measured there are left out."""
    found = []
    for model in models:
        here = tuple(measured for measured in model.measurements if measured.deployment.device == device)
        found += [replace(model, measurements=here)] if here else []
    return found


def decisive(models: Iterable[Model], limits: Limits) -> list[Model]:
    """Return models once for each deployment that may decide: no other device's best is worse than it.

    On one device that is each of the runtimes. With several devices, the others' best measurements follow it.
    """

    def key(measured: Measurement) -> tuple[float, float, str]:
        return *limits.distance(measured), measured.deployment.device

    found = []
    for model in models:
        best = best_on_each_device(model.measurements, key)
        for measured in model.measurements:
            others = tuple(other for device, other in best.items() if device != measured.deployment.device)
            if all(key(other) < key(measured) for other in others):
                found.append(replace(model, measurements=(measured, *others)))
    return found


def fastest(models: Iterable[Model]) -> Model:
    """Return the fastest of some models, the smallest of equals."""
    return min(models, key=lambda m: (m.measurement.latency.median_ms, m.measurement.size_bytes))


def no_worse(measured: Measurement, best: Measurement) -> bool:
    """Return whether a measurement loses at most a standard error to a more accurate one, on the same examples."""
    return best.accuracy - measured.accuracy <= standard_error(measured.scores, best.scores)


BASELINE, STUDENT = "baseline", "student"
"""Roles of the unchanged model, and of the unchanged student where one is compressed in the model's stead."""
