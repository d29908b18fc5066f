"""The command that copies one model out of a run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from ..studies.metric_units import shown
from . import completion
from .output import MISSES, OK, as_json, reported, working

if TYPE_CHECKING:
    from ..reports.pick.pick import PickedModel
    from ..reports.pick.selection import SelectedModel


def pick(
    run: Annotated[Path, typer.Argument(help="Run directory, finished or not.", autocompletion=completion.runs)],
    id: Annotated[str, typer.Argument(help="Model to pick: 00012, 12 or baseline.")] = "",
    target_latency: Annotated[
        str | None, typer.Option(help="Pick the recommended model within it: 4ms, 800us.")
    ] = None,
    min_accuracy: Annotated[
        str | None,
        typer.Option(
            help="Pick the fastest model with at least this metric: 0.88, or -0.5% from the unchanged network."
        ),
    ] = None,
    max_size: Annotated[str | None, typer.Option(help="Largest size of the served file: 4MB, 900kB.")] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="Most memory of a process that serves the model: 60MB.")
    ] = None,
    knee: Annotated[
        bool, typer.Option("--knee", help="Pick the model beyond which giving up accuracy saves less.")
    ] = False,
    runtime: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Count only this runtime of several. A runtime from a Python file runs only if named here.",
            autocompletion=completion.runtimes,
        ),
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=r"New folder for the copy. \[default: STUDY-ID]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of an earlier pick.")] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Run the copy in a fresh process and compare its outputs.")
    ] = True,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Database URL of the study, if it is in one; or set AUTOCOMPRESS_STORAGE."),
    ] = None,
    whole: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Copy one model out of a run, with a program that loads it and a model card, and check the copy.

    Without an ID or a limit, pick the recommended model. Another target is
    answered from the existing measurements, without a new trial; the output
    says whether more trials would help.

    Exit code 1: no model meets the limits, and nothing was copied.

    Examples:
        autocompress pick runs/digits

        autocompress pick runs/digits --target-latency 4ms -o served

        autocompress pick runs/digits 00012 -o served --force
    """
    with reported():
        from ..reports.pick.pick import copy_model
        from ..reports.pick.selection import parse_selection, select_model
        from ..storage.run import open_run

        opened = open_run(run, storage=storage)
        limits = {
            "target_latency": target_latency,
            "min_accuracy": min_accuracy,
            "max_size": max_size,
            "max_memory": max_memory,
        }
        selection = parse_selection(opened, id, knee=knee, runtime=runtime, **limits)
        selected = select_model(opened, selection)
        output = Console(soft_wrap=not sys.stdout.isatty())
        if not selection.id and not selected.front.meets(selected.model):
            if whole:
                typer.echo(as_json(_data(selected)))
            else:
                output.print(Text("\n".join(_misses(selected, opened.path))))
            raise typer.Exit(MISSES)
        with working() as notice:
            notice(f"copying {selected.model.id} and running it in a fresh process")
            picked = copy_model(opened, selected, out, force=force, prove=check, runtime=runtime)
        if whole:
            typer.echo(as_json(_data(selected, picked)))
        else:
            output.print(Text("\n".join(_lines(picked))))
    raise typer.Exit(OK)


def _misses(selected: SelectedModel, where: Path) -> list[str]:
    """Return the message for the case that no model meets the limits."""
    return [
        f"Nothing meets {selected.front.limits}, so nothing was copied. The nearest model:",
        *_summary(selected),
        *selected.front.reasons,
        *(f"  {line}" for line in selected.advice),
        f"  To pick this model anyway: autocompress pick {shlex.quote(str(where))} {selected.model.id}",
    ]


def _lines(picked: PickedModel) -> list[str]:
    selected = picked.selected
    met = "meets" if selected.front.meets(selected.model) else "misses"
    return [
        f"{picked.folder}/ has {selected.model.id}, which {met} {selected.front.limits}:",
        *_summary(selected),
        f"  {picked.proof or 'not run: --no-check'}",
        *(f"  {line}" for line in selected.advice),
        f"  Next: python {shlex.quote(str(picked.folder / 'load.py'))}; the model card is {picked.folder}/README.md",
    ]


def _summary(selected: SelectedModel) -> list[str]:
    measured, base = selected.model.measurement, selected.front.baseline.measurement
    from ..pareto.comparison_words import size, speed

    latency, unit = measured.latency, selected.front.unit
    test = "" if measured.test_accuracy is None else f" (test {shown(measured.test_accuracy, unit)})"
    return [
        f"  {latency.median_ms:.3g} ms ({latency.low_ms:.3g}–{latency.high_ms:.3g}) on {latency.deployment}, "
        f"{speed(latency.ratio)}",
        f"  {shown(measured.accuracy, unit)} on the validation data{test}, "
        f"{measured.size_bytes / 1e6:.2f} MB, {size(base.size_bytes, measured.size_bytes)}",
    ]


def _data(selected: SelectedModel, picked: PickedModel | None = None) -> dict[str, object]:
    model, front = selected.model, selected.front
    measured = model.measurement
    return {
        "folder": str(picked.folder) if picked else None,
        "model": model.id,
        "file": measured.file,
        "runtime": measured.latency.runtime,
        "meets": front.meets(model),
        "limits": front.limits.asked,
        "latency_ms": measured.latency.median_ms,
        "latency_low_ms": measured.latency.low_ms,
        "latency_high_ms": measured.latency.high_ms,
        "latency_ratio": measured.latency.ratio,
        "accuracy": measured.accuracy,
        "test_accuracy": measured.test_accuracy,
        "metric_unit": front.unit,
        "size_bytes": measured.size_bytes,
        "rung": measured.rung,
        "proof": picked.proof if picked else None,
        "advice": list(selected.advice),
    }
