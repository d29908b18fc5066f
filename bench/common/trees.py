"""This tree and other revisions of it, each to be imported as `autocompress` by a process of its own."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Check a revision out into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


@contextmanager
def importable(tree: Path) -> Iterator[dict[str, str]]:
    """Yield the environment variables of a process that imports `autocompress` from a tree."""
    with tempfile.TemporaryDirectory() as links:
        Path(links, "autocompress").symlink_to(tree.resolve())
        yield {**os.environ, "PYTHONPATH": links}
