"""Pages of the documentation that are made when it is built: the reference of the command line and of Python."""

from __future__ import annotations

import re

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.cli import get_docs_for_click

import autocompress
from autocompress.cli import app
from autocompress.commands.groups import DEFAULT

CLI = """# The command line

`autocompress` without the name of a command is `autocompress compress`.

"""

PYTHON = """# From Python

These names come from `autocompress` itself; importing it loads neither torch nor Ray until one of them is used.

"""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, content in (("cli", command_line()), ("python", python())):
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def command_line() -> str:
    """Return the reference of all commands and options, from what the command line itself knows."""
    group = typer.main.get_command(app)
    text = get_docs_for_click(obj=group, ctx=typer.Context(group), name="autocompress", title="-")
    text = text[text.index("\n## ") :].lstrip()
    text = text.replace(f"autocompress {DEFAULT} [", "autocompress [")
    return CLI + re.sub(r"^Examples:\n", "**Examples**:\n\n", text, flags=re.MULTILINE)


def python() -> str:
    """Return the page into which mkdocstrings writes the public names' docstrings."""
    return PYTHON + "\n".join(
        f"::: {module}.{name}\n    options:\n      heading: {name}\n" for name, module in autocompress._PUBLIC.items()
    )
