"""Where the files of trials are kept: in the run directory, unless a store that all nodes reach was named."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Artifacts(Protocol):
    """Where the folders of requests are kept; their names are those below a run directory."""

    def put(self, root: Path, folder: str, only: str = "") -> None:
        """Keep a folder, or one file of it, that lies below a local root.

        Raises:
            LostError: it cannot be kept.
        """
        ...

    def get(self, root: Path, folder: str, only: str = "") -> bool:
        """Bring a folder, or one file of it, below a local root; return whether it is kept at all.

        Raises:
            LostError: it cannot be brought.
        """
        ...

    def delete(self, folder: str) -> None:
        """Delete a folder, which need not be there.

        Raises:
            LostError: it cannot be deleted.
        """
        ...


class Local:
    """The run directory itself, which all workers of this machine write to."""

    def put(self, root: Path, folder: str, only: str = "") -> None:
        """Do nothing: it is there."""

    def get(self, root: Path, folder: str, only: str = "") -> bool:
        """Return that it is there, if it is anywhere."""
        return True

    def delete(self, folder: str) -> None:
        """Do nothing: who owns the run directory tidies it."""
