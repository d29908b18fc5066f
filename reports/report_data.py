"""The content of a report as plain data, which ``report.json`` stores and ``report.html`` shows.

``schema.json`` describes it for programs, docs/report.md for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from ..pareto.front import ParetoFront
from ..pareto.model import Model
from ..profiles.profile import Profile
from ..storage.trials import Trial
from ..version import __version__
from .accuracy_interval import difference, paired, rounded
from .caveats import caveats
from .importance import importances
from .json_result import finite
from .layers import levels_of, network
from .rows import ExampleCounts, key_of, rows
from .search_history import search_history

SCHEMA = 1
"""Version of the format; it increases when a field changes its meaning or is removed."""

LIBRARIES = ("torch", "optuna", "onnx", "torch-pruning")


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What a report says of a run besides its trials and models.

    Attributes:
        study: the study, as in ``study.json``.
        folder: the run directory, as its user names it.
        state: whether the run has ended.
        command: the command that resumes the run; empty if unknown.
        calibration: the baseline's calibration, as in ``calibration.json``; empty if unknown.
        scored: how many examples accuracies are shares of.
    """

    study: Mapping[str, Any]
    folder: str
    state: Literal["running", "interrupted", "finished"] = "finished"
    command: str = ""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    scored: ExampleCounts = field(default_factory=ExampleCounts)


def build(
    front: ParetoFront, trials: Sequence[Trial], profile: Profile | None, about: ReportContext, *, quick: bool = False
) -> dict[str, Any]:
    """Return the content of a report.

    Args:
        front: the front.
        trials: all trials of the study.
        profile: the network's profile; None if there is none yet.
        about: everything else.
        quick: whether to leave out the importances, which take long.
    """
    chosen = [(trial.candidate, trial.levels) for trial in trials if trial.candidate is not None]
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "autocompress": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "state": about.state,
        "study": {
            "name": str(about.study.get("study", "")),
            "folder": about.folder,
            "command": about.command,
            **{k: str(v) for k, v in about.study.items() if k not in ("study", "format")},
        },
        "limits": {**front.limits.asked, "unit": front.unit, "text": str(front.limits)},
        "fronts": [_front(each, "" if front.portfolio and each is front else None) for each in _all(front)],
        "headline": _headline(front, about.scored),
        "points": rows(front, trials, profile, about.scored),
        "network": None if profile is None else network(profile, levels_of(chosen)),
        "search": search_history(front, trials),
        "importances": importances(() if quick else trials),
        "scored": asdict(about.scored),
        "protocol": _protocol(front),
        "environment": _environment(front, about.calibration),
    }
    data["warnings"] = caveats(front, data, about.scored)
    plain: dict[str, Any] = finite(data)
    return plain


def _all(front: ParetoFront) -> tuple[ParetoFront, ...]:
    return (front, *front.portfolio)


def _front(front: ParetoFront, runtime: str | None) -> dict[str, Any]:
    best = front.recommended
    return {
        "runtime": str(front.baseline.measurement.deployment) if runtime is None else runtime,
        "name": front.name,
        "baseline": key_of(front.baseline),
        "models": [key_of(model) for model in front.models],
        "obvious": [key_of(model) for model in front.references],
        "recommended": key_of(best) if best else None,
        "meets": front.meets_target,
        "tied": [] if best is None else [key_of(m) for m in front.models if m != best and _tied(m, best)],
        "reasons": [reason.strip() for reason in front.reasons],
    }


def _tied(one: Model, other: Model) -> bool:
    return one.measurement.latency.tied(other.measurement.latency)


def _headline(front: ParetoFront, scored: ExampleCounts) -> dict[str, Any] | None:
    """Return the gains of the recommended model over the unchanged network; None if there is no model."""
    best, base = front.recommended, front.baseline.measurement
    if best is None:
        return None
    measured, latency = best.measurement, best.measurement.latency
    on, count, now, before = "validation", scored.validation, measured.accuracy, base.accuracy
    examples = measured.scores, base.scores
    if measured.test_accuracy is not None and base.test_accuracy is not None:
        on, count, now, before = "test", scored.test, measured.test_accuracy, base.test_accuracy
        examples = measured.test_scores, base.test_scores
    slowest = latency.ratio + latency.half_width
    fastest = latency.ratio - latency.half_width
    return {
        "model": key_of(best),
        "meets": front.meets(best),
        "verdicts": front.limits.verdicts(measured),
        "faster": round(1 / latency.ratio, 4),
        "faster_interval": [round(1 / slowest, 4), round(1 / fastest, 4) if fastest > 0 else None],
        "smaller": round(base.size_bytes / measured.size_bytes, 4) if measured.size_bytes else None,
        "accuracy_on": on,
        "accuracy": now,
        "baseline_accuracy": before,
        "accuracy_change": rounded(now - before),
        "accuracy_change_interval": paired(*examples) or difference(now, before, count),
    }


def _protocol(front: ParetoFront) -> dict[str, Any]:
    latency = (front.recommended or front.baseline).measurement.latency
    return {
        "clock": latency.clock,
        "threads": latency.threads,
        "percentile": latency.percentile,
        "windows": len(latency.windows),
        "runs": latency.runs,
        "processes": latency.processes,
    }


def _environment(front: ParetoFront, calibration: Mapping[str, Any]) -> dict[str, str]:
    """Return the machine that measured, and the versions of the libraries that made the models."""
    latency = (front.recommended or front.baseline).measurement.latency
    found = {**calibration.get("environment", {}), **latency.environment}
    for name in LIBRARIES:
        try:
            found.setdefault(name, version(name))
        except PackageNotFoundError:
            continue
    return {name: str(value) for name, value in found.items()}
