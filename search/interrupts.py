"""Ctrl-C and SIGTERM, which end a run at a moment when nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..pareto.front import ParetoFront


class Interrupted(BaseException):
    """The user wants to stop the run in order; ``front`` is the front so far, None before the baseline.

    Like `KeyboardInterrupt` it is not an `Exception`, so that it differs from what a user's loss or metric may raise.
    """

    front: ParetoFront | None = None


class Interrupts:
    """Turns the first Ctrl-C, or SIGTERM, into `Interrupted` at a moment when it loses nothing."""

    def __init__(self) -> None:
        self._asked = False
        self._safe = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals while the context lasts; a second one ends the process as usual.

        Works only in the main thread. If another thread searches, the program handles signals.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._asked = True
        if self._safe:
            raise Interrupted

    @contextmanager
    def safe(self, *, inside: bool = True) -> Iterator[None]:
        """Raise a requested interruption before the context or, if that is allowed, inside it."""
        if self._asked:
            raise Interrupted
        self._safe = inside
        try:
            yield
        finally:
            self._safe = False
