"""Chooses one model of a run: the recommended one, the knee, the best for other limits, or a certain one."""

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
    """How a model is chosen: in one way, or not at all for the recommended model.

    Attributes:
        id: of a certain model.
        knee: whether it is the front's knee.
        limits: what the model must meet instead of what the run was asked for.
        fastest: whether the fastest is meant, and not the most accurate, of those that meet the limits.
        runtime: the only one that counts, where the run has several.
    """

    id: str = ""
    knee: bool = False
    limits: Limits | None = None
    fastest: bool = False
    runtime: str = ""


@dataclass(frozen=True, kw_only=True)
class SelectedModel:
    """A model, the front that it is of, and what is to be known of both."""

    model: Model
    front: ParetoFront
    advice: tuple[str, ...] = ()


def choose(run: Run, selection: Selection) -> SelectedModel:
    """Return the selected model.

    Raises:
        UsageError: there is no such model, or its files were not kept; the message tells the way out.
    """
    front = _on(run.front(selection.limits), selection.runtime)
    model = _certain(run, front, selection) if selection.id else _best(front, selection)
    said = tuple(advice(run, front, model))
    if not model.path:
        raise UsageError(f"a model that is picked must have its files; {_without_files(run, front, model)}")
    return SelectedModel(model=model, front=front, advice=said)


def _best(front: ParetoFront, selection: Selection) -> Model:
    model = front.knee if selection.knee else front.recommended
    if selection.fastest and front.meets_target:
        model = fastest(m for m in (*front.models, front.baseline) if front.meets(m))
    if model is None:
        raise UsageError("a run must have a model beside its baseline; this one has none. Its trials.csv says why.")
    return model


def _certain(run: Run, front: ParetoFront, selection: Selection) -> Model:
    """Return the model of an id or role, at the place that decides, on the runtime where it is nearest to limits."""
    name = selection.id.zfill(5) if selection.id.isdigit() else selection.id.replace("-", "−")  # as roles are written
    found = [m for m in decisive(run.models, front.limits) if name == m.id or (name == m.role != "front")]
    found = [m for m in found if selection.runtime in ("", m.measurement.latency.runtime)]
    if found:
        return min(found, key=lambda m: front.limits.distance(m.measurement))
    ended = next((trial for trial in run.trials if trial.id == name), None)
    if ended is not None and ended.outcome is not None:
        why = getattr(ended.outcome, "reason", "")
        raise UsageError(f"ID must be a model that was measured to the end; {name} ended before: {why}.")
    roles = {m.id: "" if m.role in ("front", m.id) else f" ({m.role})" for m in (front.baseline, *front.models)}
    known = ", ".join(id + role for id, role in roles.items())
    raise UsageError(f"ID must be a model of {str(run.path)!r}; got {selection.id!r}. On its front are: {known}.")


def _on(front: ParetoFront, runtime: str) -> ParetoFront:
    """Return the front on one runtime alone, where one is named."""
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
        "--runtime needs a run that was measured on one device; leave it out for what does on all of them."
    )


def _without_files(run: Run, front: ParetoFront, model: Model) -> str:
    """Say why there are none, and how to have them."""
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
        f"those of {model.id} were deleted, since others are as good in all and better in something. "
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

    Limits take the place of those that the run was asked for; the others of these stay.

    Raises:
        UsageError: several ways of choosing were named, or a word is none that its option takes.
    """
    least = {"min_accuracy": min_accuracy, "min_change": min_change}
    words = {**least, "max_size": max_size, "max_memory": max_memory}
    limited = target_latency is not None or any(word is not None for word in words.values())
    if bool(id) + knee + limited > 1:
        raise UsageError("a model is chosen in one way: by an ID, by --knee, or by limits. Leave the others out.")
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
