"""What the user sees while a study runs: one line that lives on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class State:
    """How far a search is.

    Attributes:
        finished: trials with an outcome.
        total: trials when it is done.
        rungs: where the running trials are.
        best: the best model so far, in words.
        hypervolume: of the front, see `front_hypervolume`.
        left_s: estimated seconds until it is done; None before the first trial.
        held_up: what the work waits for, in words; empty where it goes on.
    """

    finished: int
    total: int
    rungs: tuple[str, ...]
    best: str
    hypervolume: float
    left_s: float | None
    held_up: str = ""

    def __str__(self) -> str:
        running = f" · on {_counted(self.rungs)}" if self.rungs else ""
        running += f" · {self.held_up}" if self.held_up else ""
        left = "" if self.left_s is None else f" · {duration(self.left_s)} left"
        return f"{self.finished}/{self.total} trials{running} · {self.best} · hypervolume {self.hypervolume:.3f}{left}"


class Progress(Protocol):
    """Something that is told how a run goes."""

    def notice(self, text: str) -> None:
        """Tell what is being done now; the next notice replaces it."""
        ...

    def milestone(self, text: str) -> None:
        """Tell something that stays on the screen."""
        ...


class Silent:
    """Tells nothing."""

    def notice(self, text: str) -> None:
        """Tell nothing."""

    def milestone(self, text: str) -> None:
        """Tell nothing."""


class Lines:
    """Prints milestones, and a notice at most so often: for logs.

    Args:
        write: takes one line.
        every_s: least seconds between two notices.
    """

    def __init__(self, write: Callable[[str], None], every_s: float = 30.0) -> None:
        self._write = write
        self._every_s = every_s
        self._last = float("-inf")

    def notice(self, text: str) -> None:
        """Print a line, unless one was printed just before."""
        if time.monotonic() - self._last >= self._every_s:
            self.milestone(text)

    def milestone(self, text: str) -> None:
        """Print a line."""
        self._last = time.monotonic()
        self._write(text)


class Live:
    """Keeps one line alive on a terminal, cut to its width, from the first notice on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")

    def notice(self, text: str) -> None:
        """Replace the line."""
        self._status.update(text[: max(20, self._console.width - 4)])
        self._status.start()

    def milestone(self, text: str) -> None:
        """Print a line above the living one."""
        self._console.print(text, highlight=False, markup=False)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Take the line away when the context ends."""
        try:
            yield
        finally:
            self._status.stop()


def _counted(rungs: Sequence[str]) -> str:
    """Return what many trials do in few words.

    >>> _counted(["train", "build"]), _counted(["train", "build", "train"])
    ('train, build', '2 × train, build')
    """
    counts = Counter(rungs)
    return ", ".join(rung if count == 1 else f"{count} × {rung}" for rung, count in counts.items())


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
