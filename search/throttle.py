"""Does something now and then while a run goes on, so seldom that it costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 60.0
"""Least seconds between two times."""

SHARE = 0.01
"""Of all time that is spent on it, at most."""


class Throttled:
    """Calls something at most so often, and so that it takes at most a hundredth of the time.

    Args:
        action: what to call.
        every_s: least seconds between two calls, and before the first.
        clock: tells the seconds.

    """

    def __init__(
        self, action: Callable[[], object], *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._action = action
        self._every_s = every_s
        self._clock = clock
        self._next = clock() + every_s

    def __call__(self) -> None:
        """Call it, if it is time."""
        began = self._clock()
        if began < self._next:
            return
        self._action()
        ended = self._clock()
        self._next = ended + max(self._every_s, (ended - began) / SHARE)
