"""The command that tells what works on this machine."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from . import completion
from .group import MISSES, OK, as_json, reported, working


def doctor(
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=completion.runtimes,
            help=r"To try; may be repeated. \[default: all; the slow are only imported]",
        ),
    ] = None,
    whole: Annotated[bool, typer.Option("--json", help="Everything, for a report of a defect.")] = False,
) -> None:
    """Tell which runtimes work here, and how quiet this machine is.

    Each serves a small network in a process of its own, in float and in INT8, against PyTorch.
    Exit code 1: none works.

    Examples:
        autocompress doctor

        autocompress doctor --runtime litert --runtime pytorch:compile --json
    """
    with reported():
        from ..evaluators.doctor import examine

        with working() as notice:
            health = examine(tuple(runtime or ()), notice=notice)
        if whole:
            typer.echo(as_json(asdict(health)))
        else:
            from .tables import of_health

            Console(soft_wrap=not sys.stdout.isatty()).print(of_health(health))
    raise typer.Exit(OK if health.works else MISSES)
