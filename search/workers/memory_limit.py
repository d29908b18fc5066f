"""A limit on the memory of a trial: a worker that exceeds it is stopped before its whole node suffers.

Only memory that the worker's process and its descendants have for themselves counts: no mapped files, no memory that
processes share, and no pages that a fork has not changed yet.
"""

from __future__ import annotations

import os
import re
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ...evaluators.evaluator import Evaluator, Host, Request
from ...evaluators.measurement import Infeasible, Outcome
from ...evaluators.meters.serve_once import peak_so_far
from . import ray_kv
from .base import LostTrial

LOOK_S = 0.5
"""Seconds between two checks of a trial's memory."""


class MemoryLimited:
    """Evaluates in a Ray worker, whose process ends if a trial exceeds its memory.

    Args:
        evaluator: evaluates requests.
        limit_bytes: limit for one trial.
    """

    def __init__(self, evaluator: Evaluator, limit_bytes: float) -> None:
        self._evaluator = evaluator
        self._limit_bytes = limit_bytes

    def evaluate(self, request: Request, host: Host) -> Outcome:
        """Evaluate a request, with its memory watched."""
        reason = f"it needed more than {in_words(self._limit_bytes)} of memory (--trial-memory gives more)"
        with watched(self._limit_bytes, lambda: _end(request, reason)):
            return self._evaluator.evaluate(request, host)


@contextmanager
def watched(limit_bytes: float, excess: Callable[[], None]) -> Iterator[None]:
    """Watch this process and its descendants in a thread; call ``excess`` if they exceed the limit."""
    over = threading.Event()

    def watch() -> None:
        while True:  # at once, as a small trial is over before the second look
            if _needs(_resident, limit_bytes) and _needs(_unshared, limit_bytes):
                excess()
                return
            if over.wait(LOOK_S):
                return

    thread = threading.Thread(target=watch, name="memory", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _needs(measured: Callable[[psutil.Process], int], limit_bytes: float) -> bool:
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error, OSError):  # it has ended
            total += measured(process)
    return total > limit_bytes


def _resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process without files, including pages that a fork shares."""
    found = process.memory_info()
    return int(found.rss) - int(getattr(found, "shared", 0))


def own_peak() -> int:
    """Return the most resident bytes that this process has had, minus those that files hold now."""
    most = peak_so_far()
    if (
        most is None
    ):  # as on macOS, where it is told in bytes; elsewhere it may be that of a process that began this one
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(0, most - int(getattr(psutil.Process().memory_info(), "shared", 0)))


def _unshared(process: psutil.Process) -> int:
    """Return the same with pages that forks share counted once, if the system reports them; this takes longer."""
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return _resident(process)
    match = re.search(r"^Pss_Anon: +(\d+) kB", rollup, re.MULTILINE)
    return int(match[1]) * 1024 if match else _resident(process)


def _end(request: Request, reason: str) -> None:
    """Leave a note for the driver, and end this process with its descendants."""
    ray_kv.put(_key(request), reason)  # without the note the trial counts as lost, and is tried again
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    os._exit(1)


def _key(request: Request) -> str:
    """Return the key of a note on a request of this run."""
    import ray

    return f"{ray.get_runtime_context().get_job_id()}:{request.folder}"


def died(request: Request, error: Exception) -> Infeasible | LostTrial:
    """Return the result of a request whose worker died."""
    import ray

    note = ""
    if ray.is_initialized():  # else the next line would begin a cluster
        with suppress(Exception):  # a Ray client may have lost its connection, which the key needs
            note = ray_kv.get(_key(request))
            ray_kv.delete(_key(request))
    if note:
        return Infeasible(reason=note, rung="memory")
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return LostTrial("its node ran out of memory, and Ray ended it (--trial-memory limits each trial)")
    return LostTrial(f"its worker died ({type(error).__name__})")


def in_words(size: float) -> str:
    """Return bytes with a unit.

    >>> in_words(8e9), in_words(1.5e8), in_words(2.0**30)
    ('8 GB', '150 MB', '1.07 GB')
    """
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB")
    return f"{size / unit:.3g} {name}"
