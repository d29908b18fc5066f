"""The table at the end of a run: as wide as the terminal, or 80 columns if that is unknown."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement as Width
from rich.table import Table
from rich.text import Text

from ..evaluators.measurement import Deployment
from ..pareto.comparison_words import gains
from ..pareto.front import ParetoFront
from ..pareto.model import Model
from ..studies.metric_units import change_of, shown

GIVEN_UP = ("speed", "95 % range", "test", "MB", "runtime", "device")
"""Columns that are left out, in this order, if a terminal is too narrow."""

COLUMNS = 80

NAMES = 12
"""Least width of the models' names; a longer name is folded."""


def render(front: ParetoFront, where: str) -> RenderableType:
    """Return the front as a table, with the recommended model and, if nothing meets the target, the reasons."""
    return Group(
        _Fitting(front),
        Text(),
        *map(Text, _conclusion(front)),
        *(Text(path, no_wrap=True, overflow="ignore") for path in _files(front, where)),
    )


@dataclass(frozen=True)
class _Fitting:
    """The table with as many columns as fit."""

    front: ParetoFront

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for count in range(len(GIVEN_UP) + 1):
            table = _table(self.front, set(GIVEN_UP[:count]))
            if Width.get(console, options.update(width=1000), table).minimum <= options.max_width:
                break
        yield table


def _table(front: ParetoFront, without: set[str]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    deployments = {alone.baseline.measurement.deployment for alone in front.portfolio}
    varied = {name for name in Deployment._fields if len({getattr(each, name) for each in deployments}) > 1}
    names = ("runtime", "device", "ms", "95 % range", "speed", "valid", "test", "MB", "meets")
    columns = [name for name in names if name not in without and (name not in Deployment._fields or name in varied)]
    table.add_column("model", overflow="fold", min_width=NAMES)
    for name in columns:
        table.add_column(name, justify="left" if name in Deployment._fields else "right", no_wrap=True)
    best = front.recommended
    for model in (front.baseline, *(m for m in front.references if m not in front.models), *front.models):
        role = model.role if model.role != "front" else model.id
        cells = _cells(model, front)
        table.add_row(
            Text(f"{'→' if model == best else ' '} {role}"),
            *(cells[name] for name in columns),
            style="bold" if model == best else "",
        )
    return table


def _cells(model: Model, front: ParetoFront) -> dict[str, str]:
    measured = model.measurement
    latency, unit = measured.latency, front.unit
    digits = 2 if front.baseline.measurement.latency.median_ms >= 1 else 3
    return {
        "runtime": short(latency.runtime),
        "device": latency.device,
        "ms": f"{latency.median_ms:.{digits}f}",
        "95 % range": f"{latency.low_ms:.{digits}f}–{latency.high_ms:.{digits}f}",
        "speed": f"{1 / latency.ratio:.2f}×",
        "valid": shown(measured.accuracy, unit),
        "test": "–" if measured.test_accuracy is None else shown(measured.test_accuracy, unit),
        "MB": f"{measured.size_bytes / 1e6:.2f}",
        "meets": "yes" if front.meets(model) else "no",
    }


def short(runtime: str) -> str:
    """Return a runtime's name; for one in a user's file, without the folder.

    >>> short("/home/me/mine.py:fast"), short("openvino:bf16")
    ('mine.py:fast', 'openvino:bf16')
    """
    return runtime.rpartition("/")[2]


def _conclusion(front: ParetoFront) -> list[str]:
    best = front.recommended
    base = front.baseline.measurement
    if best is None:
        so = "meets" if front.meets(front.baseline) else "misses"
        return [
            "No candidate was measured completely; trials.csv says why.",
            f"The unchanged network {so} {front.limits}.",
            *front.reasons,
        ]
    measured = best.measurement
    gain = f"{gains(measured, base)}, {_change(front, best)}"
    if best == front.baseline:
        so = "meets" if front.meets_target else "is the nearest to"
        lines = [f"→ The unchanged network {so} {front.limits}: no model found is better.", *front.reasons]
    elif front.meets_target:
        lines = [f"→ {best.id} meets {front.limits}: {gain}."]
        tied = [name for name in front.tied(best) if name != best.id]
        if tied:
            lines.append(f"  Its latency is tied with {', '.join(tied)}: their intervals overlap.")
        top = front.most_accurate
        if top is not None and top.measurement.accuracy > measured.accuracy:
            lines.append(
                f"  {top.id} has {shown(top.measurement.accuracy, front.unit)}: within one standard error, on the same "
                "validation examples."
            )
    else:
        lines = [f"Nothing meets {front.limits}. → {best.id} is the nearest: {gain}.", *front.reasons]
    if front.limits.several and front.meets_target:
        lines.append(f"  Limits: {'; '.join(front.limits.verdicts(measured).values())}.")
    why = None if measured.failure is None else measured.failure.reason  # given once for all that failed alike
    lines += [f"  Warning: {warning}." for warning in measured.warnings if why is None or not warning.endswith(why)]
    return [*lines, *_untrained(front), *map(_alone, front.portfolio)]


def _untrained(front: ParetoFront) -> list[str]:
    """Return one line for each reason why models of the table could not be trained, or not for longer."""
    named: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for model in (*front.references, *front.models):
        if model.measurement.failure is not None:
            named[model.measurement.failure.reason][model.id] = None
    return [f"  Training failed: {', '.join(names)}. {why}." for why, names in named.items()]


def _change(front: ParetoFront, best: Model) -> str:
    """Return a model's gain in the metric, on the test data if it was scored on them."""
    measured, base, on = best.measurement, front.baseline.measurement, "validation"
    now, before = measured.accuracy, base.accuracy
    if measured.test_accuracy is not None and base.test_accuracy is not None:
        now, before, on = measured.test_accuracy, base.test_accuracy, "test"
    return f"{change_of(now - before, front.unit)} on the {on} data"


def _files(front: ParetoFront, where: str) -> list[str]:
    """Return the paths of the recommended model and of the table of all, on one line of 80 columns or on two."""
    best = front.recommended
    if best is None:
        return []
    file, every = f"{where}/{best.path}/{best.measurement.file}", f"{where}/pareto.csv"
    one = f"  Files: {file} · all models: {every}"
    return [one] if len(one) <= COLUMNS else [f"  Files: {file}", f"  All models: {every}"]


def _alone(front: ParetoFront) -> str:
    """Return one line on the best model of one runtime or device alone."""
    best = front.recommended
    if best is None:
        return f"  On {short(front.name)} alone: no model could be measured."
    found = f"{best.id}, {shown(best.measurement.accuracy, front.unit)} at {best.measurement.latency.median_ms:.2f} ms"
    return f"  On {short(front.name)} alone: {found}, {'meets' if front.meets_target else 'misses'} the limits."


def print_table(front: ParetoFront, where: str, console: Console) -> None:
    """Print the table; the paths below it are never broken, even on a narrow terminal."""
    console.print(render(front, where), crop=False)
