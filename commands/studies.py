"""The command that lists what can be compressed."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from .group import OK, as_json, reported

SPECS = (
    ("FILE.py", "your own: a Python file with a function task() that returns a Task"),
    ("torchvision:NAME", "a classifier of torchvision, on your images: --data imagefolder:DIR"),
    ("timm:NAME", "a classifier of timm, likewise; pip install 'autocompress[timm]'"),
    ("transformers:NAME", "one of Hugging Face's, or a directory; pip install 'autocompress[transformers]'"),
)
"""What a study may be besides a built-in name."""


def studies(
    whole: Annotated[bool, typer.Option("--json", help="The same for a program.")] = False,
) -> None:
    """List the studies that are built in, and what else a study may be.

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
        console.print("\nAnything else is one of these:", others, sep="\n")
