"""The interface of workers: requests in, outcomes or lost trials out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ...evaluators.evaluator import Request
from ...evaluators.measurement import Outcome
from .shared_memory import Packed


@dataclass(frozen=True)
class LostTrial:
    """A trial whose worker is gone, or whose files are; ``counts`` tells whether the trial may be to blame."""

    why: str
    counts: bool = True


Result = tuple[Request, Outcome | LostTrial]


Payload = tuple[Packed, list[memoryview]]
"""Work for another process, and its large buffers."""


class Workers(Protocol):
    """Somewhere to evaluate requests, a few at a time."""

    interruptible: bool
    """Whether `wait` may be left by an exception that a signal handler raises."""

    def free(self) -> int:
        """Return how many more requests can be begun."""
        ...

    def submit(self, request: Request) -> None:
        """Begin to evaluate a request."""
        ...

    def wait(self, timeout_s: float) -> list[Result]:
        """Return what ended, after at most so many seconds."""
        ...

    def held_up(self) -> str:
        """Return what the work waits for, in words; nothing where it goes on."""
        ...

    def peak_bytes(self) -> int:
        """Return the most memory that a worker had of its own until now; 0 where nothing tells."""
        ...

    def withdraw(self) -> list[Request]:
        """Take back what was submitted and not begun, and return it."""
        ...

    def abandon(self) -> list[Request]:
        """End everything that is running or waits, and return it."""
        ...
