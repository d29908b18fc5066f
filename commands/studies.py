"""The command that lists the studies."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from .output import OK, as_json, reported

SPECS = (
    ("FILE.py", "your own study: a Python file with a function task() that returns a Task"),
    ("torchvision:NAME", "a torchvision classifier, on your images: --data imagefolder:DIR"),
    ("timm:NAME", "a timm classifier, on your images; pip install 'autocompress[timm]'"),
    ("transformers:NAME", "a Hugging Face model or directory; pip install 'autocompress[transformers]'"),
)
"""The kinds of study besides a built-in name."""


def studies(
    whole: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the built-in studies, and the other kinds of study.

    Examples:
        autocompress studies

        autocompress studies --json
    """
    with reported():
        from ..studies.names import STUDIES

        if whole:
            data = {"studies": [asdict(study) for study in STUDIES], "specs": dict(SPECS)}
            typer.echo(as_json(data))
            raise typer.Exit(OK)
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        for name in ("study", "network", "data", "metric"):
            table.add_column(name, overflow="fold")
        for study in STUDIES:
            table.add_row(*map(Text, asdict(study).values()))
        others = Table.grid(padding=(0, 2, 0, 0))
        for spec in SPECS:
            others.add_row(*map(Text, spec))
        console = Console(soft_wrap=not sys.stdout.isatty())
        console.print(table)
        console.print("\nOther kinds of study:", others, sep="\n")
