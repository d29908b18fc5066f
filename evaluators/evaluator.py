"""The interface between a search and what it evaluates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..spaces.candidate import Candidate
from .measurement import Latency, Outcome


@dataclass(frozen=True, kw_only=True)
class Request:
    """One candidate to evaluate, and how far to go with it.

    Attributes:
        folder: where its files go, below the run directory.
        candidate: what to build.
        epochs: passes over the training data.
        unchanged: whether it is the task's model itself, also where a smaller student is compressed in its stead.
        seed: of everything random.
        target_ms: a candidate that is surely slower ends when it was timed; None never ends one.
        latencies: how fast it is on each runtime, where that is known; it is not timed again then.
        ancestor: file, below the run directory, with the weights to go on from; empty begins with the original.
        test: whether to score the test data too.
        timeout_s: seconds after which it is given up.
        attempt: how many times it was begun before.

    """

    folder: str
    candidate: Candidate
    epochs: float
    unchanged: bool = False
    seed: int = 0
    target_ms: float | None = None
    latencies: tuple[Latency, ...] = ()
    ancestor: str = ""
    test: bool = False
    timeout_s: float = 3600.0
    attempt: int = 0


class Evaluator(Protocol):
    """Something that finds out what a candidate costs."""

    def evaluate(self, request: Request) -> Outcome:
        """Return what was measured, or why nothing could be; raise only for defects of the evaluator."""
        ...
