"""Selects one model of a run: the recommended one, the knee, the best for other limits, or one by its id."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from ...errors import UsageError
from ...pareto.front import ParetoFront, select
from ...pareto.limit_options import parse_limits
from ...pareto.limits import Limits, merged, same_unit
from ...pareto.model import Model, decisive, fastest
from ...storage.run import Run
from .advice import advice, resume_command


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How to select a model, in one way at most; by default the recommended model.

    Attributes:
        id: the model's id or role; empty for any.
        knee: whether to select the front's knee.
        limits: limits instead of the run's; None keeps those.
        fastest: whether to select the fastest model that meets the limits, instead of the recommended one.
        runtime: the only runtime that counts, if the run has several; empty for any.
    """

    id: str = ""
    knee: bool = False
    limits: Limits | None = None
    fastest: bool = False
    runtime: str = ""


@dataclass(frozen=True, kw_only=True)
class SelectedModel:
    """A selected model.

    Attributes:
        model: the model.
        front: the front for the limits of the selection.
        advice: hints for the user, one sentence each, such as whether more trials would help.
    """

    model: Model
    front: ParetoFront
    advice: tuple[str, ...] = ()


def select_model(run: Run, selection: Selection) -> SelectedModel:
    """Return the selected model.

    Raises:
        UsageError: there is no such model, or its files were not kept.
    """
    front = _on(run.front(selection.limits), selection.runtime)
    model = _certain(run, front, selection) if selection.id else _best(front, selection)
    if not model.path:
        raise UsageError(f"a picked model must have its files; {_without_files(run, front, model)}")
    return SelectedModel(model=model, front=front, advice=tuple(advice(run, front, model)))


def _best(front: ParetoFront, selection: Selection) -> Model:
    model = front.knee if selection.knee else front.recommended
    if selection.fastest and front.meets_target:
        model = fastest(m for m in (*front.models, front.baseline) if front.meets(m))
    if model is None:
        raise UsageError("a run must have a model beside its baseline; this one has none. Its trials.csv says why.")
    return model


def _certain(run: Run, front: ParetoFront, selection: Selection) -> Model:
    """Return the model with the selected id or role, on the deployment that is nearest to the limits."""
    name = selection.id.zfill(5) if selection.id.isdigit() else selection.id.replace("-", "−")  # as roles are written
    found = [m for m in decisive(run.models, front.limits) if name == m.id or (name == m.role != "front")]
    found = [m for m in found if selection.runtime in ("", m.measurement.latency.runtime)]
    if found:
        return min(found, key=lambda m: front.limits.distance(m.measurement))
    ended = next((trial for trial in run.trials if trial.id == name), None)
    if ended is not None and ended.outcome is not None:
        why = getattr(ended.outcome, "reason", "")
        raise UsageError(f"ID must be a model that was measured completely; {name} stopped before: {why}.")
    roles = {m.id: "" if m.role in ("front", m.id) else f" ({m.role})" for m in (front.baseline, *front.models)}
    known = ", ".join(id + role for id, role in roles.items())
    raise UsageError(f"ID must be a model of {str(run.path)!r}; got {selection.id!r}. On its front are: {known}.")


def _on(front: ParetoFront, runtime: str) -> ParetoFront:
    """Return the front of one runtime, or the front itself if none is given."""
    if not runtime:
        return front
    alone = [each for each in front.portfolio or (front,) if each.baseline.measurement.latency.runtime == runtime]
    if not alone:
        known = dict.fromkeys(each.baseline.measurement.latency.runtime for each in front.portfolio or (front,))
        raise UsageError(f"--runtime must be one of the run's: {', '.join(known)}; got {runtime!r}.")
    if len(alone) == 1:
        return alone[0]
    if len(alone) == len(front.portfolio):
        return front
    raise UsageError(
        "--runtime must be left out if the run was measured on several devices: a model must meet the limits on each."
    )


def _without_files(run: Run, front: ParetoFront, model: Model) -> str:
    """Return why a model has no files, and how to get them."""
    count = sum(trial.outcome is not None for trial in run.trials)
    others = [m for m in front.models if m.id != model.id]
    pair = [model.measurement, *(m.measurement for m in others)]
    if model.id in {m.id for m in front.models} or 0 in select(pair, front.limits):
        return f"those of {model.id} were not kept. It is on this front, so this builds it again: " + resume_command(
            run, front.limits, count
        )
    better = front.recommended
    picked = (
        f": autocompress pick {shlex.quote(str(run.path))} {better.id}" if better is not None and better.path else ""
    )
    return (
        f"those of {model.id} were deleted, because other models are at least as good in every objective. "
        f"The recommended one has its files{picked}"
    )


def parse_selection(
    run: Run,
    id: str = "",
    *,
    knee: bool = False,
    runtime: str = "",
    target_latency: str | float | None = None,
    min_accuracy: str | float | None = None,
    min_change: str | float | None = None,
    max_size: str | float | None = None,
    max_memory: str | float | None = None,
) -> Selection:
    """Return how a model is selected, from values as on the command line.

    The given limits replace those of the run; its other limits stay.

    Raises:
        UsageError: several ways of selecting were given, or a value is not valid for its option.
    """
    least = {"min_accuracy": min_accuracy, "min_change": min_change}
    words = {**least, "max_size": max_size, "max_memory": max_memory}
    limited = target_latency is not None or any(word is not None for word in words.values())
    if bool(id) + knee + limited > 1:
        raise UsageError("a model must be selected in one way: by an ID, by --knee or by limits. Leave the others out.")
    if not limited:
        return Selection(id=id, knee=knee, runtime=runtime)
    asked = parse_limits("1s" if target_latency is None else target_latency, **words)
    if target_latency is None:
        del asked["target_ms"]
    before = run.limits if target_latency is None or run.asked else run.against_baseline(Limits(asked["target_ms"]))
    same_unit(asked.pop("unit", None), before.metric_unit)
    limits = merged(before, asked)
    fastest = any(word is not None for word in least.values()) and target_latency is None
    return Selection(limits=limits, fastest=fastest, runtime=runtime)
