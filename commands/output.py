"""How every command prints messages and JSON, and exits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from ..errors import AutocompressError, UsageError
from ..reports.json_result import finite

OK, MISSES, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done, nothing meets what was asked for, a mistake of the user, Ctrl-C."""


@contextmanager
def reported(interrupted: str = "Interrupted.") -> Iterator[None]:
    """Turn an error or an interrupt into a message and an exit code."""
    try:
        yield
    except AutocompressError as error:
        typer.echo(f"autocompress: {error}", err=True)
        raise typer.Exit(USAGE if isinstance(error, UsageError) else MISSES) from error
    except KeyboardInterrupt:
        typer.echo(interrupted, err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows a line on a terminal's stderr until the work is done.

    The line does not move: an animation would take the processor from a measurement.
    """
    console = Console(stderr=True)

    def show(text: str) -> None:
        if console.is_terminal:
            console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
            console.print(text, end="", style="dim", no_wrap=True, overflow="ellipsis")

    try:
        yield show
    finally:
        show("")


def as_json(data: object) -> str:
    """Return data as JSON, with null for numbers that are not finite.

    >>> as_json([8, float("nan")]).split()
    ['[', '8,', 'null', ']']
    """
    return json.dumps(finite(data), indent=1)
