"""The loop that evaluates requests, for the search and for the final evaluation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ..evaluators.evaluator import Request
from ..evaluators.measurement import Outcome
from ..storage.run_directory import RunDirectory
from .interrupts import Interrupted, Interrupts
from .options import Options
from .progress import Logged, Progress, Silent
from .workers.base import LostTrial, Result, Workers
from .workers.shipping import fetch_outcome

TICK_S = 0.5
"""How long the loop waits for results before it looks at anything else."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What the search and the final evaluation of a run share.

    Attributes:
        options: budgets and settings.
        rundir: the run directory, which holds the files of trials and models.
        workers: evaluate the requests.
        epochs: passes over the training data in a trial.
        final_epochs: passes in the final training of a model.
        student: whether a student is compressed; it must be trained even if nothing compresses it.
        progress: displays the progress of the run.
        interrupts: signals that the user wants to stop.
        started: when the run began, by `time.monotonic`; the time budget counts from here.
    """

    options: Options
    rundir: RunDirectory
    workers: Workers
    epochs: float
    final_epochs: float = 0.0
    student: bool = False
    progress: Progress = field(default_factory=lambda: Logged(Silent()))
    interrupts: Interrupts = field(default_factory=Interrupts)
    started: float = field(default_factory=time.monotonic)


def run_requests(
    context: RunContext,
    next_request: Callable[[], Request | None],
    on_result: Callable[[Request, Outcome | LostTrial], object],
    *,
    running: dict[str, float] | None = None,
    expects_more: Callable[[], bool] = lambda: False,
    each_round: Callable[[], object] = lambda: None,
    retries: int = 0,
) -> None:
    """Evaluate requests until there are no more.

    Args:
        context: the workers, and the run directory to which results are brought.
        next_request: returns the request for a free worker, or None if none may start now.
        on_result: takes the result of a request.
        running: filled with the start times of the submitted requests, by their folders.
        expects_more: returns whether there may be another request although none is running.
        each_round: called before each wait; it may take requests out of `running` that it has withdrawn.
        retries: how often a lost request is submitted again before its loss is a result.

    Raises:
        Interrupted: the user wants to stop; the requests that are left in `running` were abandoned.
    """
    workers, rundir = context.workers, context.rundir
    running = {} if running is None else running
    again: deque[Request] = deque()
    try:
        while True:
            while workers.free() and (request := again.popleft() if again else next_request()) is not None:
                running[request.folder] = time.monotonic()
                workers.submit(request)
            if not running and not again and not expects_more():
                return
            each_round()
            for request, result in _wait(context, idle=not running):
                del running[request.folder]
                if not isinstance(result, LostTrial):
                    result = fetch_outcome(rundir.artifacts, rundir.path, request, result)
                if isinstance(result, LostTrial) and request.attempt < retries:
                    again.append(replace(request, attempt=request.attempt + 1))
                else:
                    on_result(request, result)
    except Interrupted:
        workers.abandon()
        raise


def _wait(context: RunContext, *, idle: bool) -> list[Result]:
    """Return what ended within a moment; an interrupt may come where no result would be lost."""
    with context.interrupts.safe(inside=context.workers.interruptible or idle):
        if idle:
            time.sleep(TICK_S)
        return context.workers.wait(0.0 if idle else TICK_S)
