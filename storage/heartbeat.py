"""Heartbeats: while a driver lives, it keeps those of its running trials fresh in the shared database."""

from __future__ import annotations

import threading
from contextlib import suppress

from optuna.storages import RDBStorage

BEAT_S = 5.0
"""Seconds between two heartbeats."""

SILENT_S = 60.0
"""A trial without a heartbeat for this many seconds has lost its driver."""


class Heartbeat:
    """Records heartbeats of trials every few seconds, in a separate thread."""

    def __init__(self, storage: RDBStorage) -> None:
        self._storage = storage
        self._trials: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def begin(self, trial_id: int) -> None:
        """Record a trial's heartbeat, at once and from now on."""
        self._trials.add(trial_id)
        self._tell(trial_id)

    def end(self, trial_id: int) -> None:
        """Stop recording a trial's heartbeat."""
        self._trials.discard(trial_id)

    def close(self) -> None:
        """Stop recording heartbeats."""
        self._over.set()
        self._thread.join(timeout=BEAT_S)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            for trial_id in tuple(self._trials):
                self._tell(trial_id)
        self._storage.remove_session()

    def _tell(self, trial_id: int) -> None:
        with suppress(Exception):  # a database that is away, in whose own words; the next beat may reach it
            self._storage.record_heartbeat(trial_id)
