"""The group of commands, with a default one; how commands print messages and exit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import typer
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from typer.core import TyperCommand, TyperGroup

from ..errors import AutocompressError, UsageError
from ..studies.names import is_study

OK, MISSES, USAGE, INTERRUPTED = 0, 1, 2, 130

DEFAULT = "compress"
"""The command that runs if the command line names none."""

HELP = {"help_option_names": ["-h", "--help"]}


class Unnamed(TyperCommand):
    """The default command; its help and errors leave out its name."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of a call, as if there were no group."""
        name = parent.info_name if parent else info_name
        return super().make_context(name, args, parent=None, obj=parent.command if parent else None, **extra)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse a second study."""
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            ctx.fail(
                f"One study can be compressed at a time; {rest[0]!r} is one word too many. Write the value of an "
                "option after it: --out DIR."
            )
        return rest


class CommandGroup(TyperGroup):
    """Commands, and a default one that runs if the first word is none of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command's name first, unless the first word is a command or an option of the group."""
        own = {name for param in self.get_params(ctx) for name in param.opts}
        if not args or args[0].partition("=")[0] not in {*self.commands, *own}:
            self._no_typo(ctx, *args[:1])
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def _no_typo(self, ctx: Any, word: str = "-") -> None:
        """Refuse a first word that is not a study but close to a command's name."""
        meant = (
            [] if is_study(word) or word.startswith("-") else get_close_matches(word, self.commands, n=1, cutoff=0.7)
        )
        if meant and not ctx.resilient_parsing:
            ctx.fail(f"{word!r} is neither a study nor a command. Did you mean {meant[0]!r}?")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the default command's help with the other commands below it."""
        default = self.commands[DEFAULT]
        shown = CommandGroup(
            name=self.name,
            help=default.help,
            params=[param for param in (*default.get_params(ctx), *self.params) if param.name != "help"],
            callback=default.callback,
            context_settings=self.context_settings,
            subcommand_metavar="| COMMAND [ARGS]...",
            commands={name: command for name, command in self.commands.items() if name != DEFAULT},
            rich_markup_mode=self.rich_markup_mode,
        )
        TyperGroup.format_help(shown, ctx, formatter)


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
    return json.dumps(_finite(data), indent=1)


def _finite(data: object) -> object:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
