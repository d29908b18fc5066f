"""A measured model, and models on each deployment that they were measured on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..evaluators.measurement import Measurement
from ..evaluators.scores import standard_error
from ..spaces.candidate import Candidate
from .limits import Limits


@dataclass(frozen=True, kw_only=True)
class Model:
    """A measured model: a point of the front, the baseline, or one of the reference baselines.

    Attributes:
        id: ``baseline``, or the trial's number in five digits.
        role: ``front``, ``baseline``, or the name of a reference baseline such as ``uniform int8``.
        path: the folder with its files, relative to the run directory; empty where none are kept.

    """

    id: str
    candidate: Candidate
    measurement: Measurement
    role: str = "front"
    path: str = ""


def everywhere(models: Iterable[Model]) -> list[Model]:
    """Return models once for each place that they were measured at."""
    return [
        replace(model, measurement=replace(measured, elsewhere=()))
        for model in models
        for measured in model.measurement.everywhere
    ]


def devices_in(models: Iterable[Model]) -> list[str]:
    """Return the devices that models were measured on, where there are several."""
    names = dict.fromkeys(m.latency.device for model in models for m in model.measurement.everywhere)
    return list(names) if len(names) > 1 else []


def on_device(models: Iterable[Model], device: str) -> list[Model]:
    """Return models as if there were one device only; those that were not measured there are left out."""
    found = []
    for model in models:
        here = [m for m in model.measurement.everywhere if m.latency.device == device]
        if here:
            found.append(replace(model, measurement=replace(here[0], elsewhere=tuple(here[1:]))))
    return found


def decisive(models: Iterable[Model], limits: Limits) -> list[Model]:
    """Return models once for each place that decides: by that runtime, it does no better on any other device.

    With one device that is each of its runtimes. With several, the others' best places are elsewhere.
    """

    def key(measured: Measurement) -> tuple[float, float, str]:
        return *limits.distance(measured), measured.latency.device

    found = []
    for model in models:
        each = [replace(m, elsewhere=()) for m in model.measurement.everywhere]
        best = {m.latency.device: m for m in sorted(each, key=key, reverse=True)}
        for m in each:
            others = tuple(other for device, other in best.items() if device != m.latency.device)
            if all(key(other) < key(m) for other in others):
                found.append(replace(model, measurement=replace(m, elsewhere=others)))
    return found


def fastest(models: Iterable[Model]) -> Model:
    """Return the fastest of some models, the smallest of equals."""
    return min(models, key=lambda m: (m.measurement.latency.median_ms, m.measurement.size_bytes))


def no_worse(measured: Measurement, best: Measurement) -> bool:
    """Return whether a measurement loses at most a standard error to a more accurate one, on the same examples."""
    return best.accuracy - measured.accuracy <= standard_error(measured.scores, best.scores)


BASELINE, STUDENT = "baseline", "student"
"""Roles of the unchanged model, and of the unchanged student where one is compressed in the model's stead."""
