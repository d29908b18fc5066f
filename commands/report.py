"""The command that writes a run's report again."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from . import completion
from .output import OK, reported


def report(
    run: Annotated[
        Path, typer.Argument(help="Run directory: finished, stopped or still running.", autocompletion=completion.runs)
    ],
    target_latency: Annotated[
        str | None, typer.Option(help=r"Judge by another target: 4ms. \[default: the run's]")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Database URL of the study, if it is in one; or set AUTOCOMPRESS_STORAGE.")
    ] = None,
) -> None:
    """Write the reports, tables and pictures of a run again, and print its table.

    Nothing is trained or measured: another target is answered from the
    existing measurements. A run that is still running is not disturbed.

    Examples:
        autocompress report runs/digits

        autocompress report runs/digits --target-latency 4ms
    """
    with reported():
        from ..pareto.limits import Limits
        from ..reports import write as files
        from ..reports.terminal_table import print_table
        from ..storage.run import open_run
        from ..units import parse_latency

        target_ms = None if target_latency is None else parse_latency(target_latency)
        opened = open_run(run, storage=storage)
        limits = None
        if target_ms is not None:
            limits = Limits(target_ms) if opened.asked is None else replace(opened.limits, target_ms=target_ms)
        front = opened.front(limits)
        files.write_again(opened, front)
        print_table(front, str(run), Console(soft_wrap=not sys.stdout.isatty()))
        typer.echo(f"written: {run / 'report.html'}")
    raise typer.Exit(OK)
