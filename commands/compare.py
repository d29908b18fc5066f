"""The command that compares two runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..errors import UsageError
from ..studies.metric_units import SHARE, bare, shown
from . import completion
from .output import OK, as_json, reported

if TYPE_CHECKING:
    from ..pareto.model import Model
    from ..reports.comparison import Comparison, Side

PLOTS = (".png", ".svg", ".pdf")


def compare(
    run_a: Annotated[Path, typer.Argument(help="A run directory.", autocompletion=completion.runs)],
    run_b: Annotated[Path, typer.Argument(help="Another run directory.", autocompletion=completion.runs)],
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw both fronts to a .png, .svg or .pdf file.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Database URL of the studies, if they are in one; or set AUTOCOMPRESS_STORAGE."
        ),
    ] = None,
    whole: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Compare the fronts of two runs, such as two targets, devices, runtimes or versions.

    If the runs were measured differently, the differences are listed, and
    models are compared relative to the unchanged network of their own run.

    Examples:
        autocompress compare runs/digits runs/digits-openvino

        autocompress compare runs/before runs/after --plot both.png
    """
    with reported():
        if plot is not None and plot.suffix not in PLOTS:
            raise UsageError(f"--plot must name a file that ends with {', '.join(PLOTS)}; got {str(plot)!r}.")
        from ..reports.comparison import compare as compared
        from ..storage.run import open_run

        found = compared(open_run(run_a, storage=storage), open_run(run_b, storage=storage))
        if plot is not None:
            _draw(found, plot)
        if whole:
            typer.echo(as_json(_data(found)))
        else:
            Console(soft_wrap=not sys.stdout.isatty()).print(render(found))
    raise typer.Exit(OK)


def render(found: Comparison) -> RenderableType:
    """Return both fronts side by side with a conclusion, in 80 columns."""
    by_time = found.by == "milliseconds"
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for name in ("A", "B"):
        table.add_column(name, no_wrap=True)
        change = "± acc." if found.a.front.unit == SHARE else "± metric"
        for column in ("ms", "valid", "MB") if by_time else ("speed", change, "size"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    bases = [_cells(side, side.front.baseline, by_time, name="unchanged") for side in (found.a, found.b)]
    table.add_row(*bases[0], *bases[1], style="dim")
    rows = [[_cells(side, model, by_time) for model in side.front.models] for side in (found.a, found.b)]
    for left, right in zip_longest(*rows, fillvalue=[""] * 5):
        table.add_row(*left, *right)
    return Group(*map(Text, _heading(found)), Text(), table, Text(), *map(Text, _conclusion(found)))


def _heading(found: Comparison) -> Iterator[str]:
    for name, side in (("A", found.a), ("B", found.b)):
        yield f"{name}: {side.run.path}, {side.front.limits} on {side.run.identity.get('runtime', '')}"


def _cells(side: Side, model: Model, by_time: bool, name: str = "") -> list[str]:
    measured, base = model.measurement, side.front.baseline.measurement
    better = side.by(model)
    mark = f"< {better}" if better else ""
    if by_time:
        accuracy = shown(measured.accuracy, side.front.unit)
        numbers = [f"{measured.latency.median_ms:.2f}", accuracy, f"{measured.size_bytes / 1e6:.2f}"]
    else:
        numbers = [
            f"{base.latency.ratio / measured.latency.ratio:.2f}×",
            bare(measured.accuracy - base.accuracy, side.front.unit),
            f"{measured.size_bytes / base.size_bytes:.2f}×",
        ]
    return [name or model.id, *numbers, mark]


def _conclusion(found: Comparison) -> Iterator[str]:
    for name, other, side in (("A", "B", found.a), ("B", "A", found.b)):
        models = len(side.front.models)
        yield f"{other} dominates {len(side.dominated)} of {name}'s {models} models (by medians; < names the better)."
    ratio = "–" if found.ratio is None else f"{found.ratio:.3f}"
    yield f"Hypervolume: A {found.a.hypervolume:.4f}, B {found.b.hypervolume:.4f}, B/A {ratio}, up to"
    yield f"  {found.scale}."
    yield from (f"Note: {warning}" for warning in found.warnings)
    if found.by != "milliseconds":
        yield "Models are therefore compared relative to the unchanged network of their own run."


def _data(found: Comparison) -> dict[str, Any]:
    return {
        "by": found.by,
        "reference": found.scale,
        "hypervolume_ratio": found.ratio,
        "warnings": list(found.warnings),
        "a": _side(found.a),
        "b": _side(found.b),
    }


def _side(side: Side) -> dict[str, Any]:
    rows = side.front.to_pandas().to_dict("records")
    marks = ["", *map(side.by, side.front.models)]
    return {
        "run": str(side.run.path),
        "identity": dict(side.run.identity),
        "limits": str(side.front.limits),
        "hypervolume": side.hypervolume,
        "models": [{**row, "dominated_by": mark or None} for row, mark in zip(rows, marks, strict=True)],
    }


def _draw(found: Comparison, path: Path) -> None:
    from ..reports.matplotlib_figure import beside

    path.parent.mkdir(parents=True, exist_ok=True)
    sides = {str(side.run.path): side.front for side in (found.a, found.b)}
    with path.open("wb") as file:
        beside(sides, file, kind=path.suffix[1:], relative=found.by != "milliseconds")
