"""The group of commands, with a default one."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

from typer.core import TyperCommand, TyperGroup

from ..studies.names import is_study

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
