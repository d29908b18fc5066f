"""What a run tells while it goes on: what is being done now, how far a search is, and what stays to be read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True)
class Running:
    """A trial that somebody is at: its id, the rung it is on, and the seconds since it was begun."""

    name: str
    rung: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.name} {self.rung} {duration(self.seconds)}"


@dataclass(frozen=True, kw_only=True)
class SearchState:
    """How far a search is.

    Attributes:
        finished: trials with an outcome.
        total: trials when it is done.
        running: the trials that are being evaluated.
        best: the best model so far, in words.
        front: how many models meet the target and are not dominated.
        hypervolume: of these, see `front_hypervolume`.
        unchanged: trials that have finished since one of them came onto the front.
        left_s: estimated seconds until all is done, the front's last training too; None before the first trial.
        held_up: what the work waits for, in words; empty where it goes on.
    """

    finished: int
    total: int
    running: tuple[Running, ...] = ()
    best: str
    front: int = 0
    hypervolume: float = 0.0
    unchanged: int = 0
    left_s: float | None = None
    held_up: str = ""

    def __str__(self) -> str:
        left = "" if self.left_s is None else f"{duration(self.left_s)} left"
        on = f"on {self.rungs}" if self.running else ""
        parts = (f"{self.finished}/{self.total} trials", on, self.held_up, self.best, self.trend, left)
        return " · ".join(filter(None, parts))

    @property
    def rungs(self) -> str:
        """What the running trials do, in few words."""
        return _counted(Counter(each.rung for each in self.running))

    @property
    def trend(self) -> str:
        """How good the front is, and whether it still gets better."""
        since = f", no better for {counted(self.unchanged, 'trial')}" if self.unchanged else ""
        return f"hypervolume {self.hypervolume:.3f}{since}"

    @property
    def still(self) -> SearchState:
        """The same with its clocks stopped: two that are equal tell the same."""
        return replace(self, left_s=None, running=tuple(replace(each, seconds=0.0) for each in self.running))


class Progress(Protocol):
    """Something that is told how a run goes."""

    def notice(self, what: str | SearchState) -> None:
        """Tell what is being done now; the next notice replaces it."""
        ...

    def milestone(self, text: str) -> None:
        """Tell something that stays on the screen."""
        ...


class Silent:
    """Tells nothing."""

    def notice(self, what: str | SearchState) -> None:
        """Tell nothing."""

    def milestone(self, text: str) -> None:
        """Tell nothing."""


class Lines:
    """Prints milestones, and a notice at most so often: for logs.

    Args:
        write: takes one line.
        every_s: least seconds between two notices.
    """

    def __init__(self, write: Callable[[str], object], every_s: float = 30.0) -> None:
        self._write = write
        self._every_s = every_s
        self._last = float("-inf")

    def notice(self, what: str | SearchState) -> None:
        """Print a line, unless one was printed just before."""
        if time.monotonic() - self._last >= self._every_s:
            self.milestone(str(what))

    def milestone(self, text: str) -> None:
        """Print a line."""
        self._last = time.monotonic()
        self._write(text)


def _counted(counts: Counter[str]) -> str:
    """Return what many trials do in few words.

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
