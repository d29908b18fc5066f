"""Writes files that are whole after a crash and a power cut, and tells when a disk is full."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, a crash or a power cut finds the old content or the new, never a part.

    Folders that are missing are made. When this returns, all of it is on the disk. Permissions are as the umask says.
    """
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def copy_atomically(source: str | Path, target: str | Path) -> None:
    """Copy a file's content with `write_atomically`."""
    write_atomically(Path(target), Path(source).read_bytes())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; when this returns, they are on the disk."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync(folder.parent)


def _sync(folder: Path) -> None:
    """Write the names in a folder to the disk, where its file system can do that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def full(error: BaseException | None) -> bool:
    """Return whether an error, or what led to it, says that there is no room on a disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
