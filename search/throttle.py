"""Calls a function from time to time during a run, so seldom that it costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 60.0
"""Least seconds between two calls."""

SHARE = 0.01
"""Largest share of the time that the calls may take."""


class Throttled:
    """Calls a function at limited intervals, and for at most a hundredth of the time.

    Args:
        action: what to call.
        every_s: least seconds between two calls, and before the first.
        clock: returns seconds.

    """

    def __init__(
        self, action: Callable[[], object], *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._action = action
        self._every_s = every_s
        self._clock = clock
        self._next = clock() + every_s

    def __call__(self) -> None:
        """Call it if it is due."""
        began = self._clock()
        if began < self._next:
            return
        self._action()
        ended = self._clock()
        self._next = ended + max(self._every_s, (ended - began) / SHARE)
