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

Import these names from `autocompress` itself.
Importing it loads neither torch nor Ray; the first use of a name may.

"""

GROUPS = {
    "Compress a network": ("compress", "Task", "Options"),
    "Open a run": ("open_run", "Run", "Trial"),
    "Read a front": ("ParetoFront", "Limits", "Model", "Candidate", "Measurement", "Latency", "Infeasible"),
    "Use a model": ("plot_front", "load_model", "pick", "PickedModel", "SelectedModel"),
    "Compare runs": ("compare", "Comparison"),
    "Errors": (
        *("AutocompressError", "UsageError", "StudyError", "RunDirectoryError", "StorageError"),
        *("MissingRuntimeError", "CompactFileError", "Interrupted"),
    ),
}
"""Public names by use: the headings of the reference page."""


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
    return PYTHON + "\n".join(f"## {heading}\n\n{''.join(map(_entry, names))}" for heading, names in GROUPS.items())


def _entry(name: str) -> str:
    """Return what mkdocstrings replaces by a name's signature and docstring."""
    return f"::: {autocompress._PUBLIC[name]}.{name}\n    options:\n      heading: {name}\n      heading_level: 3\n\n"
