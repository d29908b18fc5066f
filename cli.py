"""The command line: options in, an exit code out.

Exit codes: 0 the front meets the target and every limit · 1 nothing does, the nearest model is reported · 2 the command
cannot do what was asked · 130 interrupted, the same command resumes the run. For ``measure`` and ``doctor``, 1 means
that no runtime works.
"""

from __future__ import annotations

import typer

from .commands.check_study import check_study
from .commands.compare import compare
from .commands.compress import compress
from .commands.doctor import doctor
from .commands.groups import DEFAULT, HELP, CommandGroup, Unnamed
from .commands.measure import measure
from .commands.pack import pack, unpack
from .commands.pick import pick
from .commands.report import report
from .commands.studies import studies

app = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False, context_settings=HELP)
app.command(DEFAULT, cls=Unnamed, context_settings={**HELP, "allow_extra_args": True})(compress)
app.command("check-study", context_settings=HELP)(check_study)
app.command(context_settings=HELP)(report)
app.command(context_settings=HELP)(pick)
app.command(context_settings=HELP)(compare)
app.command(context_settings=HELP)(measure)
app.command(context_settings=HELP)(doctor)
app.command(context_settings=HELP)(studies)
app.command(context_settings=HELP)(pack)
app.command(context_settings=HELP)(unpack)


def main() -> None:
    """Run the command line."""
    app()
