"""The command that checks the runtimes of this machine."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from . import completion
from .output import MISSES, OK, as_json, reported, working


def doctor(
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=completion.runtimes,
            help=r"Runtime to try; may be repeated. \[default: all; slow ones are only imported]",
        ),
    ] = None,
    whole: Annotated[bool, typer.Option("--json", help="Print everything as JSON, for a bug report.")] = False,
) -> None:
    """Check which runtimes work on this machine, and how quiet it is.

    Each runtime serves a small network in its own process, in float and in
    INT8; its outputs are compared with PyTorch's.

    Exit code 1: no runtime works.

    Examples:
        autocompress doctor

        autocompress doctor --runtime litert --runtime pytorch:compile --json
    """
    with reported():
        from ..evaluators.standalone.doctor import examine

        with working() as notice:
            health = examine(tuple(runtime or ()), notice=notice)
        if whole:
            typer.echo(as_json(asdict(health)))
        else:
            from .tables import of_health

            Console(soft_wrap=not sys.stdout.isatty()).print(of_health(health))
    raise typer.Exit(OK if health.works else MISSES)
