"""The rungs of one evaluation: the current one, the seconds that each took, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import InfeasibleError
from ..device_lock import waited_s
from .trial_files import RUNG


class Rungs:
    """Keeps the time of one evaluation, and writes its current rung to a file.

    Args:
        folder: the folder of the request.
        timeout_s: seconds that the evaluation may take, without the time that it waits for measurements.
    """

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self.current = "build"
        self.seconds: dict[str, float] = {}
        self._folder = folder
        self._timeout_s = timeout_s
        self._ends = time.monotonic() + timeout_s - waited_s()

    @property
    def deadline(self) -> float:
        """The end of the evaluation's time, by `time.monotonic`; each wait for a measurement moves it."""
        return self._ends + waited_s()

    @property
    def left_s(self) -> float:
        """Seconds that are left, at least one."""
        return max(1.0, self.deadline - time.monotonic())

    @contextmanager
    def on(self, rung: str, *, late: bool = False) -> Iterator[None]:
        """Enter a rung, and add its seconds at the end.

        Args:
            rung: its name.
            late: whether it may begin after the evaluation's time.

        Raises:
            InfeasibleError: the evaluation's time is over.
        """
        self.current = rung
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / RUNG).write_text(rung)
        started = time.monotonic()
        if started > self.deadline and not late:
            raise InfeasibleError(f"its time of {self._timeout_s:g} s was over (--trial-timeout gives more)", rung=rung)
        yield
        self.seconds[rung] = round(self.seconds.get(rung, 0.0) + time.monotonic() - started, 3)
