"""The interface of workers: they take requests and return outcomes or lost trials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ...evaluators.evaluator import Request
from ...evaluators.measurement import Outcome
from .shared_memory import Packed


@dataclass(frozen=True)
class LostTrial:
    """A trial whose worker or files are gone; ``counts`` says whether the trial may be to blame."""

    why: str
    counts: bool = True


Result = tuple[Request, Outcome | LostTrial]


Payload = tuple[Packed, list[memoryview]]
"""Work for another process, and its large buffers."""


class Workers(Protocol):
    """Somewhere to evaluate requests, a few at a time."""

    interruptible: bool
    """Whether an exception from a signal handler may interrupt `wait`."""

    def free(self) -> int:
        """Return how many more requests can be started."""
        ...

    def submit(self, request: Request) -> None:
        """Start to evaluate a request."""
        ...

    def wait(self, timeout_s: float) -> list[Result]:
        """Return finished results, after at most this many seconds."""
        ...

    def blocked_reason(self) -> str:
        """Return what the work waits for, in words; empty if it does not wait."""
        ...

    def peak_bytes(self) -> int:
        """Return the most memory that a worker has had for itself so far; 0 if unknown."""
        ...

    def withdraw(self) -> list[Request]:
        """Withdraw submitted requests that have not started, and return them."""
        ...

    def abandon(self) -> list[Request]:
        """Stop all running and waiting requests, and return them."""
        ...
