"""Evaluates requests in this process, one at a time."""

from __future__ import annotations

from ...errors import LostError
from ...evaluators.evaluator import BARE, Evaluator, Host, Request
from ...evaluators.measurement import Outcome
from .base import LostTrial, Result


class InlineWorkers:
    """Evaluates one request at a time in this process, when it is waited for.

    Args:
        evaluator: evaluates the requests.
        host: what this process provides to it.
    """

    interruptible = True

    def __init__(self, evaluator: Evaluator, host: Host = BARE) -> None:
        self._evaluator = evaluator
        self._host = host
        self._queue: list[Request] = []

    def free(self) -> int:
        """Return 1 when nothing is queued."""
        return 1 - len(self._queue)

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self._queue.append(request)

    def wait(self, timeout_s: float) -> list[Result]:
        """Evaluate the queued request, however long it takes."""
        results: list[Result] = []
        while self._queue:
            results.append((self._queue[0], self._evaluated(self._queue[0])))
            self._queue.pop(0)
        return results

    def _evaluated(self, request: Request) -> Outcome | LostTrial:
        try:
            return self._evaluator.evaluate(request, self._host)
        except LostError as error:
            return LostTrial(str(error), counts=False)

    def blocked_reason(self) -> str:
        """Return nothing: this process is always available."""
        return ""

    def peak_bytes(self) -> int:
        """Return 0: nothing separates a trial's memory from that of the search."""
        return 0

    def withdraw(self) -> list[Request]:
        """Return nothing: a request starts when it is waited for."""
        return []

    def abandon(self) -> list[Request]:
        """Return the queued request; an interrupted one is still queued."""
        queued, self._queue = self._queue, []
        return queued
