"""This user's folder for temporary files on a node, and what killed processes have left in it.

It lies in the system's (``TMPDIR``), where anybody could have made one of its name: it is believed only where it is a
real folder that nobody else can enter, and all that is deleted in it is reached through its descriptor.
``XDG_RUNTIME_DIR`` would be private from the start, but is often a few hundred megabytes of memory, and the data of a
task goes here.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UsageError

FOLDER = f"autocompress-{os.getuid()}"
"""Its name."""

OURS = re.compile(r"(scratch-)?[0-9a-f]{32}")
"""Names of what we put there; nothing else is deleted."""

FRESH_S = 60.0
"""What is younger is left alone: its process may be about to lock it."""


@contextmanager
def private_folder() -> Iterator[tuple[Path, int]]:
    """Open the folder, which is made where there is none; yield its path and a descriptor.

    Raises:
        UsageError: it is not this user's alone.
    """
    path = Path(tempfile.gettempdir(), FOLDER)
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    wrong = _wrong(found)
    if wrong:
        raise UsageError(
            f"the folder for temporary files must be one that nobody else can enter; {str(path)!r} {wrong}. "
            "Delete it, or set TMPDIR to a folder of your own."
        )
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if not os.path.samestat(found, os.fstat(descriptor)):
            raise UsageError(f"the folder for temporary files must stay where it is; somebody has moved {str(path)!r}.")
        yield path, descriptor
    finally:
        os.close(descriptor)


def _wrong(found: os.stat_result) -> str:
    """Say why a folder is not this user's alone; empty where it is."""
    if not stat.S_ISDIR(found.st_mode):
        return "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
    if found.st_uid != os.getuid():
        return f"belongs to user {found.st_uid}"
    return f"has mode {found.st_mode & 0o777:03o}" if found.st_mode & 0o077 else ""


@contextmanager
def scratch() -> Iterator[Path]:
    """Have a new folder; one that a killed process left is deleted by those that come later.

    Raises:
        UsageError: see `private_folder`.
    """
    name = f"scratch-{uuid.uuid4().hex}"
    with private_folder() as (parent, descriptor):
        sweep(descriptor)
        os.mkdir(name, 0o700, dir_fd=descriptor)
        try:
            with _locked(name, descriptor):
                yield parent / name
        finally:
            shutil.rmtree(name, ignore_errors=True, dir_fd=descriptor)


def sweep(descriptor: int, keep: str = "") -> None:
    """Delete what nobody uses any more: its processes died before they could."""
    for name in os.listdir(descriptor):
        if name == keep or not OURS.fullmatch(name):
            continue
        with suppress(OSError):
            found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            if time.time() - found.st_mtime < FRESH_S:
                continue
            with _locked(name, descriptor):
                if stat.S_ISDIR(found.st_mode):
                    shutil.rmtree(name, dir_fd=descriptor)
                else:
                    os.unlink(name, dir_fd=descriptor)


@contextmanager
def _locked(name: str, descriptor: int) -> Iterator[None]:
    """Hold a file or folder for as long as the context lasts; `OSError` where another process does."""
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
