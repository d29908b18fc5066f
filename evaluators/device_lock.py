"""Locks a machine's devices: one measurement at a time on each device, and no training of ours meanwhile.

There are three files in a folder of the machine. The kernel locks them, so a process that dies releases its locks:

- the process that measures holds the *device*;
- all processes that train share the *floor*, and a process that measures holds it alone;
- the *turnstile* is in front of the floor: a process that wants to measure closes it, so that trainers cannot take
  turns and keep the floor occupied for ever.

Trainers leave the floor at every batch while the turnstile is closed: they pause. This holds for all studies and all
users of a machine, whatever their ``TMPDIR``. Containers do not see each other's locks, unless they mount one folder
and name it in ``AUTOCOMPRESS_LOCKS``.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import UsageError

logger = logging.getLogger(__name__)

LOCKS = "AUTOCOMPRESS_LOCKS"
"""Environment variable: the folder of the locks, for containers that share a machine."""

FOLDERS = (Path("/run/lock"), Path("/dev/shm"))
"""Folders for the locks: the first that everybody may write to is used, else the one for temporary files."""

HELD = Path("/proc/locks")

FLOOR, TURNSTILE = "training", "turnstile"

PATIENCE_S = 10.0
"""Seconds that a measurement waits for trainers to leave the floor; then it starts anyway, and says so."""

LONG_S = 60.0
"""Seconds of waiting after which the process that holds the lock is reported."""

POLL_S = 0.01


def lock_folder() -> Path:
    """Return the folder of this machine's locks, which is the same for all users."""
    named = os.environ.get(LOCKS)
    if named:
        return Path(named)
    return next(filter(_everybodys, FOLDERS), Path(tempfile.gettempdir()))


def _everybodys(folder: Path) -> bool:
    try:
        return folder.stat().st_mode & 0o1777 == 0o1777 and os.access(folder, os.W_OK)
    except OSError:
        return False


def check_locks() -> None:
    """Check that training and measuring can take turns here.

    Raises:
        UsageError: a lock cannot be used.
    """
    for name in (FLOOR, TURNSTILE):
        _Lock(name).close()


class _Lock:
    """A file that any user may lock.

    Raises:
        UsageError: the file cannot be used.
    """

    def __init__(self, name: str) -> None:
        self.path = lock_folder() / f"autocompress-{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}.lock"
        try:
            self.descriptor = self._opened()
        except OSError as error:
            why = "it is a link" if error.errno == errno.ELOOP else error.strerror
            raise self._unusable(str(why)) from error
        if not stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            os.close(self.descriptor)
            raise self._unusable("it is no file")

    def _opened(self) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # else a FIFO would wait for a writer
        try:
            return os.open(self.path, flags)
        except FileNotFoundError:
            descriptor = os.open(self.path, flags | os.O_CREAT, 0o666)
            with suppress(PermissionError):  # another user was faster
                os.fchmod(descriptor, 0o666)
            return descriptor

    def _unusable(self, why: str) -> UsageError:
        return UsageError(
            f"a lock of the machine must be a file that everybody may open; {str(self.path)!r} cannot be used: {why}. "
            f"Delete it, or name another folder in {LOCKS}, the same for all who measure here."
        )

    def take(self, kind: int) -> None:
        """Wait for the lock as long as it takes; report its holder after a long wait."""
        with suppress(BlockingIOError):
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
            return
        teller = threading.Timer(LONG_S, self._tell)
        teller.daemon = True
        teller.start()
        try:
            fcntl.flock(self.descriptor, kind)
        finally:
            teller.cancel()

    def _tell(self) -> None:
        logger.warning(
            "waiting for %s for %g s, which is held by %s: measurements and trainings on a machine take turns",
            self.path,
            LONG_S,
            ", ".join(_holders(os.fstat(self.descriptor).st_ino)) or "an unknown process",
        )

    def taken(self, kind: int, patience_s: float) -> bool:
        """Try to take the lock for some seconds; return whether it was taken."""
        end = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    return False
                time.sleep(POLL_S)
            else:
                return True

    def release(self) -> None:
        """Release the lock explicitly, as a fork of this process may keep the file open."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        self.release()
        os.close(self.descriptor)


def _holders(inode: int) -> Iterator[str]:
    """Yield the processes that have locked a file, if this system reports them."""
    with suppress(OSError):
        for line in HELD.read_text().splitlines():
            _, kind, *_, process, place, _, _ = line.split()
            if kind == "FLOCK" and place.endswith(f":{inode}"):
                name = Path("/proc", process, "comm")
                with suppress(OSError):
                    yield f"process {process} ({name.read_text().strip()})"


@contextmanager
def exclusive(device: str) -> Iterator[None]:
    """Hold a device of this machine, which no other user or study may use meanwhile."""
    lock = _Lock(f"device-{device}")
    try:
        lock.take(fcntl.LOCK_EX)
        yield
    finally:
        lock.close()


@contextmanager
def quiet(patience_s: float = PATIENCE_S) -> Iterator[bool]:
    """Let trainers pause; yield whether all of them have."""
    turnstile, floor = _Lock(TURNSTILE), _Lock(FLOOR)
    try:
        turnstile.take(fcntl.LOCK_EX)
        yield floor.taken(fcntl.LOCK_EX, patience_s)
    finally:
        floor.close()
        turnstile.close()


class _Trainer:
    """This process as a trainer."""

    def __init__(self) -> None:
        self.depth = 0
        self._waited_s = 0.0
        self._waits_since: float | None = None
        self._locks: tuple[_Lock, _Lock] | None = None

    def enter(self) -> None:
        turnstile, floor = self._locks = self._locks or (_Lock(TURNSTILE), _Lock(FLOOR))
        with self.waiting():
            turnstile.take(fcntl.LOCK_SH)
            floor.take(fcntl.LOCK_SH)
            turnstile.release()

    def leave(self) -> None:
        assert self._locks is not None
        self._locks[1].release()

    def close(self) -> None:
        for lock in self._locks or ():
            lock.close()
        self._locks = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            since, self._waits_since = self._waits_since, None
            self._waited_s += time.monotonic() - since

    def waited_s(self) -> float:
        since = self._waits_since  # another thread may ask
        return self._waited_s + (0.0 if since is None else time.monotonic() - since)


_trainer = _Trainer()


@contextmanager
def training() -> Iterator[None]:
    """Hold the floor with other trainers: the context does heavy work, and gives way at each `pause`."""
    if not _trainer.depth:
        _trainer.enter()
    _trainer.depth += 1
    try:
        yield
    finally:
        _trainer.depth -= 1
        if not _trainer.depth:
            _trainer.close()


def pause() -> None:
    """Let waiting measurements run first; takes microseconds if none waits, and does nothing off the floor."""
    if _trainer.depth:
        _trainer.leave()
        _trainer.enter()


def waited_s() -> float:
    """Return how many seconds this process has waited off the floor for measurements, its own and others'.

    A wait that is not over yet counts up to now.
    """
    return _trainer.waited_s()


@contextmanager
def on_the_floor() -> Iterator[None]:
    """Hold the floor for a process that this one has started, and that does heavy work meanwhile."""
    turnstile, floor = _Lock(TURNSTILE), _Lock(FLOOR)
    try:
        turnstile.take(fcntl.LOCK_SH)
        floor.take(fcntl.LOCK_SH)
        turnstile.release()
        yield
    finally:
        floor.close()
        turnstile.close()


@contextmanager
def off_the_floor() -> Iterator[None]:
    """Leave the floor in the context, to wait for a measurement of this process."""
    if not _trainer.depth:
        yield
        return
    depth, _trainer.depth = _trainer.depth, 0
    _trainer.leave()
    try:
        with _trainer.waiting():
            yield
    finally:
        _trainer.enter()
        _trainer.depth = depth
