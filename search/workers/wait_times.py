"""Excludes waiting for measurements from a trial's time: the worker reports to the driver how long it waits.

A thread reports through a Ray cluster's key-value store, because the worker itself is busy with the trial.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ...evaluators.device_lock import waited_s

TELL_S = 0.5
"""Seconds between two checks of how long a worker has waited."""


@contextmanager
def told(token: str) -> Iterator[None]:
    """Report how long this process waits in the context, under the trial's own name."""
    from ray.experimental import internal_kv

    before, over, known = waited_s(), threading.Event(), 0.0

    def tell() -> None:
        nonlocal known
        while not over.wait(TELL_S):
            waited = waited_s() - before
            if waited > known:
                with suppress(Exception):  # the store is away for a moment, or for good
                    internal_kv._internal_kv_put(_key(token), repr(waited).encode(), overwrite=True)
                    known = waited

    thread = threading.Thread(target=tell, name="waits", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(TELL_S)
        if known:
            forget(token)


def waited(token: str) -> float:
    """Return the seconds that a trial's worker has reported."""
    from ray.experimental import internal_kv

    with suppress(Exception):
        text = internal_kv._internal_kv_get(_key(token))
        return float(text) if text else 0.0
    return 0.0


def forget(token: str) -> None:
    """Delete the reported times."""
    from ray.experimental import internal_kv

    with suppress(Exception):
        internal_kv._internal_kv_del(_key(token))


def _key(token: str) -> bytes:
    return f"autocompress:waits:{token}".encode()
