"""Who has the machine: one measurement at a time on a device, and no training of ours beside it.

Three files in the directory for temporary files, locked by the kernel, so that whoever dies lets go:

- the *device* is held by the one who measures;
- the *floor* is shared by all who train, and held alone by who measures;
- the *turnstile* stands before the floor: who wants to measure closes it, so that trainers cannot take turns to keep
  the floor occupied for ever.

Trainers leave the floor at every batch for as long as the turnstile is closed: they pause. That holds for all studies
on a machine, whoever started them.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FLOOR, TURNSTILE = "training", "turnstile"

PATIENCE_S = 10.0
"""Seconds that a measurement waits for trainers to leave the floor; then it begins beside them, and says so."""

POLL_S = 0.01


class _Lock:
    """A file that any user may lock."""

    def __init__(self, name: str) -> None:
        path = Path(tempfile.gettempdir(), f"autocompress-{name}.lock")
        try:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            self.descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT, 0o666)
            with suppress(PermissionError):  # another user was faster
                os.fchmod(self.descriptor, 0o666)

    def take(self, kind: int) -> None:
        fcntl.flock(self.descriptor, kind)

    def taken(self, kind: int, patience_s: float) -> bool:
        """Try for so long; return whether it was taken."""
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
        """Let go; explicitly, as a fork of this process may keep the file open."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        self.release()
        os.close(self.descriptor)


@contextmanager
def exclusive(device: str) -> Iterator[None]:
    """Hold a device of this machine, whoever else measures here, under whatever user."""
    lock = _Lock(f"device-{device}")
    try:
        lock.take(fcntl.LOCK_EX)
        yield
    finally:
        lock.close()


@contextmanager
def quiet(patience_s: float = PATIENCE_S) -> Iterator[bool]:
    """Have trainers pause; yield whether all of them have."""
    turnstile, floor = _Lock(TURNSTILE), _Lock(FLOOR)
    try:
        turnstile.take(fcntl.LOCK_EX)
        yield floor.taken(fcntl.LOCK_EX, patience_s)
    finally:
        floor.close()
        turnstile.close()


class _Trainer:
    """This process as one of those who train."""

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
    """Be on the floor: heavy work goes on inside, and makes way at each `pause`."""
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
    """Let whoever wants to measure do so first; a few microseconds where nobody does, and nothing off the floor."""
    if _trainer.depth:
        _trainer.leave()
        _trainer.enter()


def waited_s() -> float:
    """Return how many seconds this process has been off the floor, for measurements of its own and of others.

    The one that it waits for at the moment is counted so far as it has gone.
    """
    return _trainer.waited_s()


@contextmanager
def off_the_floor() -> Iterator[None]:
    """Leave the floor to wait for a measurement of one's own."""
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
