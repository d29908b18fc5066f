"""Excludes waiting for measurements from a trial's time: the worker reports to the driver how long it waits.

A thread reports through a Ray cluster's key-value store, because the worker itself is busy with the trial.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...evaluators.device_lock import waited_s
from . import ray_kv

LOOK_S = 0.5
"""Seconds between two checks of how long a worker has waited."""


@contextmanager
def reported(token: str) -> Iterator[None]:
    """Report how long this process waits in the context, under the trial's own name."""
    before, over, known = waited_s(), threading.Event(), 0.0

    def report() -> None:
        nonlocal known
        while not over.wait(LOOK_S):
            waited = waited_s() - before
            if waited > known and ray_kv.put(_key(token), repr(waited)):
                known = waited

    thread = threading.Thread(target=report, name="waits", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(LOOK_S)
        if known:
            forget(token)


def waited(token: str) -> float:
    """Return the seconds that a trial's worker has reported."""
    return float(ray_kv.get(_key(token)) or 0.0)


def forget(token: str) -> None:
    """Delete the reported time."""
    ray_kv.delete(_key(token))


def _key(token: str) -> str:
    return f"waits:{token}"
