"""What a run reports: its current work, the state of the search, and messages that stay on the screen."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

logger = logging.getLogger(__name__)

EVERY_S = 60.0
"""Least seconds between two calls of something `Throttled`."""

SHARE = 0.01
"""Largest share of the time that these calls may take."""


@dataclass(frozen=True)
class Running:
    """A running trial: its id, its rung, and the seconds since it started."""

    name: str
    rung: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.name} {self.rung} {duration(self.seconds)}"


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """The state of a search.

    Attributes:
        finished: trials with an outcome.
        total: total number of trials.
        running: trials that are being evaluated.
        best: the best model so far, in words.
        front: how many models meet the target and are not dominated.
        hypervolume: hypervolume of these, see `front_hypervolume`.
        unchanged: finished trials since the front last improved.
        left_s: estimated seconds until everything is done, including the final evaluation; None before the first trial.
        blocked_reason: what the work waits for, in words; empty if it does not wait.
    """

    finished: int
    total: int
    running: tuple[Running, ...] = ()
    best: str
    front: int = 0
    hypervolume: float = 0.0
    unchanged: int = 0
    left_s: float | None = None
    blocked_reason: str = ""

    def __str__(self) -> str:
        left = "" if self.left_s is None else f"{duration(self.left_s)} left"
        on = f"on {self.rungs}" if self.running else ""
        parts = (f"{self.finished}/{self.total} trials", on, self.blocked_reason, self.best, self.trend, left)
        return " · ".join(filter(None, parts))

    @property
    def rungs(self) -> str:
        """The running trials' work, in few words."""
        return _counted(Counter(each.rung for each in self.running))

    @property
    def trend(self) -> str:
        """The quality of the front, and whether it still improves."""
        since = f", no better for {counted(self.unchanged, 'trial')}" if self.unchanged else ""
        return f"hypervolume {self.hypervolume:.3f}{since}"

    @property
    def still(self) -> SearchState:
        """The same without its clocks: two equal values print the same."""
        return replace(self, left_s=None, running=tuple(replace(each, seconds=0.0) for each in self.running))


class Progress(Protocol):
    """Receives the progress of a run."""

    def notice(self, what: str | SearchState) -> None:
        """Show the current work; the next notice replaces it."""
        ...

    def milestone(self, text: str) -> None:
        """Print a message that stays on the screen."""
        ...

    def warning(self, text: str) -> None:
        """Print a problem that the run survives; it stays on the screen too."""
        ...


class Logged:
    """Passes the progress on, and logs what stays on the screen.

    Args:
        progress: displays the progress.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def notice(self, what: str | SearchState) -> None:
        """Pass the current work on; it changes too often for a log."""
        self._progress.notice(what)

    def milestone(self, text: str) -> None:
        """Log a message, and pass it on."""
        logger.info("%s", text)
        self._progress.milestone(text)

    def warning(self, text: str) -> None:
        """Log a problem, and pass it on."""
        logger.warning("%s", text)
        self._progress.warning(text)


class Silent:
    """Reports nothing."""

    def notice(self, what: str | SearchState) -> None:
        """Do nothing."""

    def milestone(self, text: str) -> None:
        """Do nothing."""

    def warning(self, text: str) -> None:
        """Do the same as for a milestone."""
        self.milestone(text)


class Lines:
    """Prints milestones, and notices from time to time: for logs.

    Args:
        write: prints one line.
        every_s: least seconds between two notices.
    """

    def __init__(self, write: Callable[[str], object], every_s: float = 30.0) -> None:
        self._write = write
        self._every_s = every_s
        self._last = float("-inf")

    def notice(self, what: str | SearchState) -> None:
        """Print a line, unless another one was printed just before."""
        if time.monotonic() - self._last >= self._every_s:
            self.milestone(str(what))

    def milestone(self, text: str) -> None:
        """Print a line."""
        self._last = time.monotonic()
        self._write(text)

    def warning(self, text: str) -> None:
        """Print a line."""
        self.milestone(text)


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


def _counted(counts: Counter[str]) -> str:
    """Return a summary of what several trials do.

    >>> _counted(Counter(["train", "build"])), _counted(Counter(["train", "build", "train"]))
    ('train, build', '2 × train, build')
    """
    return ", ".join(rung if count == 1 else f"{count} × {rung}" for rung, count in counts.items())


def counted(count: int, what: str) -> str:
    """Return a number of things.

    >>> counted(1, "trial"), counted(3, "trial")
    ('1 trial', '3 trials')
    """
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def duration(seconds: float) -> str:
    """Return a duration in words.

    >>> duration(42), duration(150), duration(4000)
    ('42 s', '2 min 30 s', '1 h 6 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
