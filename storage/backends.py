"""Opens what holds a study: a journal file in the run directory, or a database."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.study import StudyDirection

from ..errors import StorageError, gist
from .journal import Journal, ReadJournal
from .redact import plain_url, redacted

if TYPE_CHECKING:
    from .rdb import PatientRDBStorage

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE, StudyDirection.MINIMIZE)
"""Directions of the objectives: accuracy, latency in milliseconds, size in bytes."""

METRICS = ("accuracy", "latency_ms", "size_bytes")
"""Names of the objectives, as other programs show them that read the storage."""

PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses between attempts to create a database's tables."""


def open_journal(folder: Path) -> JournalStorage:
    """Return the storage in a run directory, which is created if there is none."""
    return JournalStorage(Journal(folder / "study.journal"))


def open_database(url: str) -> PatientRDBStorage:
    """Return the storage at a URL, with Optuna's tables.

    Raises:
        StorageError: the database cannot be reached.
    """
    try:
        return _database(url)
    except Exception as error:  # SQLAlchemy, its drivers and Optuna each have errors of their own
        raise _unreachable(url, error) from error


def read_storage(folder: Path, url: str | None) -> BaseStorage | None:
    """Return a storage to read from; None if the folder holds no journal.

    Raises:
        StorageError: the database cannot be reached, or it holds no studies.
    """
    journal = folder / "study.journal"
    if url is None:
        return JournalStorage(ReadJournal(journal)) if journal.is_file() else None
    from .rdb import PatientRDBStorage  # noqa: PLC0415  # start-up time: only a database needs it

    try:
        return PatientRDBStorage(url, reads=True)
    except Exception as error:  # as in `open_database`
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> StorageError:
    reason = gist(error)
    return StorageError(
        f"--storage must be the URL of a database that can be reached, such as "
        f"postgresql://user@host/name; got {plain_url(url)!r}: {redacted(reason, url)}"
    )


def _database(url: str) -> PatientRDBStorage:
    from sqlalchemy.exc import IntegrityError, ProgrammingError  # noqa: PLC0415  # start-up time: only a database needs it

    from .rdb import PatientRDBStorage  # noqa: PLC0415  # start-up time: only a database needs it

    for pause_s in PAUSES_S:
        try:
            return PatientRDBStorage(url)
        except (IntegrityError, ProgrammingError):  # several drivers that start at once all create the tables
            time.sleep(pause_s)
    return PatientRDBStorage(url)


@contextmanager
def quiet() -> Iterator[None]:
    """Let Optuna log errors only; restore its verbosity afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


_silencing = threading.Lock()
"""Is held while warnings are silenced, which is not done by each thread for itself."""


def open_study(storage: BaseStorage, name: str) -> optuna.Study:
    """Return the study of a name, which is created if there is none."""
    with quiet():
        study = optuna.create_study(study_name=name, storage=storage, directions=list(DIRECTIONS), load_if_exists=True)
    with _silencing, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # that it may change
        if study.metric_names is None:
            study.set_metric_names(list(METRICS))
    return study


def close_storage(storage: BaseStorage) -> None:
    """Close the connections to a database; a journal has none."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()
