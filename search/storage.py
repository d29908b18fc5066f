"""Where Optuna keeps a study: a journal file in the run directory, or a database."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # part of a public signature, exported nowhere

from ..errors import UsageError


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """Return the storage at a URL, or without one the journal in a folder.

    Raises:
        UsageError: the database cannot be reached.
    """
    if url is None:
        return JournalStorage(_journal(folder / "study.journal"))
    try:
        return RDBStorage(url)
    except Exception as error:  # SQLAlchemy, its drivers and Optuna each have errors of their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"--storage must be the URL of a database that can be reached, such as "
            f"postgresql://user@host/name; got {url!r}: {reason}"
        ) from error


def close_storage(storage: BaseStorage) -> None:
    """Let go of a database; a journal holds nothing."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def _journal(path: Path) -> JournalFileBackend:
    """Open a journal file; a last line that a dying writer left half-written is cut off."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("rb+") as file:
                file.truncate(whole)
    return JournalFileBackend(str(path), lock_obj=_FileLock(path.with_name(".journal.lock")))


class _FileLock(BaseJournalFileLock):
    """A lock that the kernel frees when its holder dies; Optuna's own waits half a minute for that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        self._file = self.path.open("a")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
