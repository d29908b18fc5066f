"""Signs of life: while a driver lives, its running trials have a fresh heartbeat in the database that it shares."""

from __future__ import annotations

import threading
from contextlib import suppress

from optuna.storages import RDBStorage

BEAT_S = 5.0
"""Between two heartbeats."""

SILENT_S = 60.0
"""A trial without a heartbeat for so long has lost its driver."""


class Heartbeat:
    """Tells a database every few seconds that trials are alive, beside whatever the driver does."""

    def __init__(self, storage: RDBStorage) -> None:
        self._storage = storage
        self._trials: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def begin(self, trial_id: int) -> None:
        """Tell of a trial, at once and from now on."""
        self._trials.add(trial_id)
        self._tell(trial_id)

    def end(self, trial_id: int) -> None:
        """Tell of a trial no more."""
        self._trials.discard(trial_id)

    def close(self) -> None:
        """Tell of nothing any more."""
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
