"""Ctrl-C and SIGTERM: the run ends at a moment when nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..pareto.front import ParetoFront


class Interrupted(BaseException):
    """The user wants the run to end in order; ``front`` is what was found until then, None before the baseline.

    Like `KeyboardInterrupt` it is no `Exception`, so that what a user's loss or metric may raise is told from it.
    """

    front: ParetoFront | None = None


class Interrupts:
    """Turns the first Ctrl-C, or SIGTERM, into `Interrupted` at a moment when nothing can be lost by it."""

    def __init__(self) -> None:
        self._asked = False
        self._safe = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals for as long as the context lasts; a second one ends the process as usual.

        Only the main thread may; where another one searches, signals are the affair of the program.
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
        """Let an interruption that was asked for come, before the context or, where that is allowed, inside it."""
        if self._asked:
            raise Interrupted
        self._safe = inside
        try:
            yield
        finally:
            self._safe = False
