"""What a command would do, printed on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..search.dry_run import Axis, RunEstimate, Span
from ..search.progress import counted, duration


def as_table(plan: RunEstimate) -> RenderableType:
    """Return a plan in 80 columns: the space, the steps, and the estimated time."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for label, text in (*_unchanged(plan), *_space(plan), *_steps(plan), *_times(plan)):
        grid.add_row(Text(label, style="bold"), Text(text))
    head = f"{plan.study} to {plan.target} on {', '.join(plan.runtimes)}: the plan. Nothing was written."
    return Group(Text(head), Text(), grid)


def as_data(plan: RunEstimate) -> dict[str, Any]:
    """Return the same for JSON."""
    return {**asdict(plan), "whole": asdict(plan.whole)}


def _unchanged(plan: RunEstimate) -> Iterator[tuple[str, str]]:
    if plan.baseline_ms is not None:
        yield "unchanged", f"about {plan.baseline_ms:.3g} ms"


def _space(plan: RunEstimate) -> Iterator[tuple[str, str]]:
    what = "without levels that do not pay" if plan.profiled else "before levels that do not pay are left out"
    yield "space", f"10^{plan.log10_candidates:.0f} candidates, {what}"
    for axis in plan.axes:
        yield "", _axis(axis)
    yield "distance", f"to the teacher's outputs: {plan.distance}, because {plan.distance_why}"


def _axis(axis: Axis) -> str:
    levels = f"{axis.most}" if axis.least == axis.most else f"{axis.least} to {axis.most}"
    return f"{axis.name}: {counted(axis.choices, 'choice')} of {levels} levels"


def _steps(plan: RunEstimate) -> Iterator[tuple[str, str]]:
    known = (
        "already profiled" if plan.profiled else "export, calibration, profile of its layers' costs and sensitivities"
    )
    yield "network", known
    left = max(0, plan.trials - plan.finished)
    done = f" ({plan.finished} are done)" if plan.finished else ""
    yield "trials", f"{left}{done}, {_passes(plan.epochs)} for each that is trained"
    yield "", plan.machine or "in this process"
    if plan.starts:
        most = "" if plan.profiled else "up to "
        yield "", f"{most}{plan.starts} of them known: reference baselines, greedy descents"
    end = f"up to {plan.models} models: {_passes(plan.final_epochs)} each, test data, careful timing"
    yield "final", end if plan.models else "the final evaluation is done"


def _passes(epochs: float) -> str:
    return f"{epochs:g} {'epoch' if epochs == 1 else 'epochs'}"


def _times(plan: RunEstimate) -> Iterator[tuple[str, str]]:
    yield "time", f"about {_minutes(plan.whole.about_s)} in all, between {_range(plan.whole)}"
    for label, span in (("network", plan.network), ("trials", plan.search), ("final", plan.finals)):
        yield "", f"{label} {_minutes(span.about_s)}"
    costs = plan.costs
    yield "based on", f"{plan.rests_on}: {_seconds(costs.build_s)} to build,"
    yield (
        "",
        (
            f"{_seconds(costs.measure_s)} to time, {_seconds(costs.score_s)} to score, "
            f"{_seconds(costs.epoch_s)} for an epoch of training"
        ),
    )


def _range(span: Span) -> str:
    return f"{_minutes(span.least_s)} and {_minutes(span.most_s)}"


def _minutes(seconds: float) -> str:
    """Return an estimated time, rounded up.

    >>> _minutes(8), _minutes(130), _minutes(4000)
    ('10 s', '3 min', '1 h 7 min')
    """
    return duration(math.ceil(seconds / 10) * 10 if seconds < 100 else math.ceil(seconds / 60) * 60).removesuffix(
        " 0 s"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else duration(seconds)
