"""Manages this user's folder for temporary files on a node, and deletes what killed processes have left in it.

The folder is in the system's one (``TMPDIR``), where anyone could create a folder of this name. So it is used only if
it is a real folder that nobody else can enter, and everything that is deleted in it is reached through its descriptor.
``XDG_RUNTIME_DIR`` is private from the start, but it is often a few hundred megabytes of memory: too small for the data
of a task.
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
"""The name of the folder."""

OURS = re.compile(r"(scratch-)?[0-9a-f]{32}")
"""Names of our own files and folders; nothing else is deleted."""

FRESH_S = 60.0
"""Younger files are not deleted: their process may be about to lock them."""

_HELD: dict[str, int] = {}
"""Descriptors of this process's shared folders, which stay locked to its end."""


@contextmanager
def private_folder() -> Iterator[tuple[Path, int]]:
    """Open the folder, and create it if there is none; yield its path and a descriptor.

    Raises:
        UsageError: other users can enter it.
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
    """Return why other users can enter a folder; empty if they cannot."""
    if not stat.S_ISDIR(found.st_mode):
        return "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
    if found.st_uid != os.getuid():
        return f"belongs to user {found.st_uid}"
    return f"has mode {found.st_mode & 0o777:03o}" if found.st_mode & 0o077 else ""


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a new folder, and delete it afterwards; later processes delete the folders of killed ones.

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


def shared_folder(name: str) -> Path:
    """Return a folder that this node's processes share; later ones delete it when all that have asked for it are gone.

    Args:
        name: 32 hexadecimal digits.

    Raises:
        UsageError: see `private_folder`.
    """
    with private_folder() as (parent, descriptor):
        if name not in _HELD:
            sweep(descriptor, keep=name)
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=descriptor)
            _HELD[name] = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
            fcntl.flock(_HELD[name], fcntl.LOCK_SH)
        return parent / name


def leave_shared_folders() -> None:
    """Let go of the folders that this process shares; the last process to do so deletes them."""
    with suppress(UsageError), private_folder() as (_, descriptor):
        while _HELD:
            name, handle = _HELD.popitem()
            os.close(handle)
            with suppress(OSError), _locked(name, descriptor):
                shutil.rmtree(name, dir_fd=descriptor)


def sweep(descriptor: int, keep: str = "") -> None:
    """Delete files and folders whose processes have died."""
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
    """Lock a file or folder in the context; raise `OSError` if another process has locked it."""
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=descriptor)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
