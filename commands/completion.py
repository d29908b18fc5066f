"""Completions that a shell offers for Tab. Nothing here imports a slow module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from ..studies.names import BUILT_IN, LIBRARIES

NEAR = 2
"""How many folders deep run directories and studies are searched."""


def studies(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of studies, and of commands, because a command may replace the study."""
    commands = () if ctx.params.get("target_latency") else tuple(getattr(ctx.obj, "commands", ()))
    files = [name for path in _near(f"{incomplete}*.py", Path()) if "def task(" in _text(path) for name in [str(path)]]
    offered = (*BUILT_IN, *(f"{library}:" for library in LIBRARIES), *(c for c in commands if c != "compress"), *files)
    return _matching(offered, incomplete)


def runtimes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of runtimes; after a colon, their variants."""
    from ..evaluators.runtimes import RUNTIMES, variants_of

    family, colon, _ = incomplete.partition(":")
    if colon and family in RUNTIMES:
        return _matching([f"{family}:{variant}" for variant in variants_of(family) if variant], incomplete)
    return _matching([name for name in RUNTIMES if name != "fake"], incomplete)


def samplers(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return names of samplers."""
    from ..search.options import SAMPLERS

    return _matching(SAMPLERS, incomplete)


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return run directories."""
    parent = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    return _matching([str(path.parent) for path in _near("study.json", parent)], incomplete)


def _matching(offered: Any, incomplete: str) -> list[str]:
    return [name for name in offered if name.startswith(incomplete)]


def _near(name: str, below: Path) -> Iterator[Path]:
    """Yield files of a name in a folder and up to `NEAR` levels below; skip folders that cannot be read."""
    for depth in range(NEAR + 1):
        with suppress(OSError, ValueError, NotImplementedError):
            yield from sorted(below.glob("*/" * depth + name))


def _text(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return ""
