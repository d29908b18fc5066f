"""The models and trials of a study as rows of plain data, one for each deployment that measured them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluators.ladder.trial_files import WRITTEN
from ..evaluators.measurement import Infeasible, Latency, Outcome
from ..evaluators.scores import standard_error
from ..pareto.front import ParetoFront
from ..pareto.model import BASELINE, Model, at_each_deployment, decisive, devices_in, no_worse
from ..profiles.profile import Profile
from ..spaces.candidate import Candidate
from ..storage.run_directory import read_json
from ..storage.trials import Trial
from .accuracy_interval import interval
from .layers import changes, settings

FRONT, REFERENCE, TRIAL, INFEASIBLE = "front", "obvious", "trial", "infeasible"
"""Kinds of rows besides the baseline: the front, reference baselines, other measured trials, infeasible trials."""


@dataclass(frozen=True, kw_only=True)
class ExampleCounts:
    """How many examples an accuracy is a share of; None if it is not a share, or if the number is unknown."""

    validation: int | None = None
    test: int | None = None


def key_of(model: Model) -> str:
    """Return the key of a model on a deployment in a report."""
    return f"{model.id}@{model.measurement.deployment}"


def rows(
    front: ParetoFront, trials: Sequence[Trial], profile: Profile | None, scored: ExampleCounts
) -> list[dict[str, Any]]:
    """Return the final models first, then the other trials, by number.

    Args:
        front: the front.
        trials: all trials of the study.
        profile: the network's profile; None if there is none yet.
        scored: how many examples accuracies are shares of.
    """
    levels = {trial.id: trial.levels for trial in trials}
    first = next((trial for trial in trials if trial.role == BASELINE and trial.outcome is not None), None)
    levels[BASELINE] = first.levels if first else {}
    finals: dict[str, tuple[str, Model]] = {}
    for kind, model in _finals(front):
        finals.setdefault(key_of(model), (kind, model))
    together = {key_of(model) for model in (front.baseline, *front.references, *front.models)}
    several = bool(devices_in([front.baseline]))
    made = [
        {
            **_model(model, kind, scored, front),
            "as_good": [key for key, (_, other) in finals.items() if other != model and _as_good(other, model)],
            "decides": not several or key_of(model) in together,
            "trial": first.number if first and model.id == BASELINE else _number(model.id),
            **_chosen(model.candidate, profile, levels.get(model.id, {}), _written(front, model)),
        }
        for kind, model in finals.values()
    ]
    done = {row["key"] for row in made}
    for trial in trials:
        if trial.outcome is not None and trial.candidate is not None and trial.role != BASELINE:
            made += [
                row
                for row in _trial(trial, trial.candidate, trial.outcome, front, profile, scored)
                if row["key"] not in done
            ]
    return made


def _as_good(model: Model, other: Model) -> bool:
    """Return whether a model is faster than another one that is hardly more accurate, on the same deployment."""
    one, two = model.measurement, other.measurement
    same = one.deployment == two.deployment and one.latency.median_ms < two.latency.median_ms
    return same and one.accuracy <= two.accuracy and no_worse(one, two)


def _finals(front: ParetoFront) -> Iterator[tuple[str, Model]]:
    """Yield the models of a front and of its portfolio with their kind, the first one if there are two."""
    for each in (front, *front.portfolio):
        yield BASELINE, each.baseline
    for each in (front, *front.portfolio):
        yield from ((REFERENCE, model) for model in each.references)
    for each in (front, *front.portfolio):
        yield from ((FRONT, model) for model in each.models if model.role == "front")


def _number(name: str) -> int | None:
    return int(name) if name.isdigit() else None


def _trial(
    trial: Trial,
    candidate: Candidate,
    found: Outcome,
    front: ParetoFront,
    profile: Profile | None,
    scored: ExampleCounts,
) -> Iterator[dict[str, Any]]:
    about = {"trial": trial.number, **_chosen(candidate, profile, trial.levels)}
    if isinstance(found, Infeasible):
        yield {**_ended(found, trial.id, trial.role), "decides": True, **about}
        return
    whole = Model(id=trial.id, candidate=candidate, measurements=found, role=trial.role or FRONT)
    deciding = {key_of(model) for model in decisive([whole], front.limits)}
    for model in at_each_deployment([whole]):
        yield {**_model(model, TRIAL, scored, front), "decides": key_of(model) in deciding, **about}


def _written(front: ParetoFront, model: Model) -> dict[str, Any] | None:
    """Return how a model's file stores each layer; None if its files were not kept."""
    return read_json(Path(front.where) / model.path / WRITTEN) if front.where and model.path else None


def _chosen(
    candidate: Candidate,
    profile: Profile | None,
    levels: Mapping[str, int],
    written: dict[str, Any] | None = None,
) -> dict[str, Any]:
    made: dict[str, Any] = {"settings": settings(candidate)}
    if profile is not None:
        made["layers"] = changes(profile, candidate, levels, written)
        made["estimated_ms"] = round(profile.predict_ms(candidate), 5)
    return made


def _model(model: Model, kind: str, scored: ExampleCounts, front: ParetoFront) -> dict[str, Any]:
    measured = model.measurement
    return {
        "key": key_of(model),
        "id": model.id,
        "kind": kind,
        "role": "" if model.role == "front" else model.role,
        "runtime": str(measured.deployment),
        "final": measured.rung == "final",
        "meets": front.limits.satisfied_by(measured),
        "accuracy": measured.accuracy,
        "accuracy_interval": interval(measured.accuracy, scored.validation),
        "accuracy_error": standard_error(measured.scores, front.baseline.measurement.scores),
        "test_accuracy": measured.test_accuracy,
        "test_interval": interval(measured.test_accuracy, scored.test),
        "one_shot_accuracy": measured.one_shot_accuracy,
        "latency": latency_row(measured.latency),
        "size_bytes": measured.size_bytes,
        "params": measured.params,
        "macs": measured.macs,
        "memory_bytes": measured.memory_bytes,
        "energy_mj": measured.energy_mj,
        "low_precision": measured.low_precision,
        "rung": measured.rung,
        "epochs": measured.epochs,
        "parity": measured.parity,
        "agreement": measured.agreement,
        "seconds": round(sum(measured.seconds.values()), 1),
        "reason": "" if measured.failure is None else measured.failure.reason,
        "warnings": list(measured.warnings),
        "path": model.path if measured.rung == "final" or model.path.startswith("models/") else "",
        "file": measured.file,
    }


def _ended(found: Infeasible, name: str, role: str) -> dict[str, Any]:
    return {
        "key": name,
        "id": name,
        "kind": INFEASIBLE,
        "role": role,
        "runtime": str(found.latency.deployment) if found.latency else "",
        "final": False,
        "meets": False,
        "accuracy": None,
        "one_shot_accuracy": found.one_shot_accuracy,
        "latency": latency_row(found.latency) if found.latency else None,
        "size_bytes": found.size_bytes,
        "memory_bytes": found.memory_bytes,
        "energy_mj": found.energy_mj,
        "rung": found.rung,
        "reason": found.reason,
        "warnings": [],
        "path": "",
    }


def latency_row(latency: Latency) -> dict[str, Any]:
    """Return a latency without its raw times."""
    return {
        "median_ms": round(latency.median_ms, 5),
        "low_ms": round(latency.low_ms, 5),
        "high_ms": round(latency.high_ms, 5) if math.isfinite(latency.high_ms) else None,
        "least_ms": round(latency.least_ms, 5),
        "most_ms": round(latency.most_ms, 5) if math.isfinite(latency.most_ms) else None,
        "ratio": round(latency.ratio, 5),
        "half_width": round(latency.half_width, 5) if math.isfinite(latency.half_width) else None,
        "windows": len(latency.windows),
        "runs": latency.runs,
        "processes": latency.processes,
        "bridged": latency.bridge_spread > 0,
        "contended": latency.contended,
    }
