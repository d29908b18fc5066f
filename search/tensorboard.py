"""Logs a study for TensorBoard: accuracy, latency and size of each trial, and the growth of the front.

Optuna's own callback needs TensorFlow and a single objective, so this uses PyTorch's writer.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import UsageError
from ..evaluators.measurement import Measurement, representative
from ..pareto.front import select
from ..pareto.model import BASELINE
from ..pareto.objectives import front_hypervolume, objectives
from ..storage.backends import METRICS
from ..storage.study_store import StudyStore


class TensorBoardWriter:
    """Writes the trials of a study for TensorBoard as they finish, and those of an earlier run again.

    Args:
        folder: folder that TensorBoard reads.
        store: the study.
    """

    def __init__(self, folder: str, store: StudyStore) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # optional dependency

        self._writer: Any = SummaryWriter(folder, purge_step=0)
        self._store = store
        self._written: set[int] = set()
        self._front: list[Measurement] = []
        self._baseline: Measurement | None = None

    def __call__(self) -> None:
        """Write the trials that finished since the last call."""
        if self._store.count() == len(self._written):
            return
        for trial in self._store.finished():
            if trial.number in self._written:
                continue
            self._written.add(trial.number)
            found = representative(trial.outcome) if trial.outcome else None
            self._writer.add_scalar("trial/measured", float(isinstance(found, Measurement)), trial.number)
            if isinstance(found, Measurement):
                if trial.role == BASELINE:
                    self._baseline = found
                for name, value in zip(METRICS, objectives(found), strict=True):
                    self._writer.add_scalar(f"trial/{name}", value, trial.number)
                self._grow(found)
        self._writer.flush()

    def _grow(self, found: Measurement) -> None:
        """Write the quality of the front with another model."""
        limits, every = self._store.limits, [*self._front, found]
        self._front = [every[i] for i in select(every, limits)]
        meeting = [each for each in self._front if limits.satisfied_by(each)]
        self._writer.add_scalar("front/models", len(meeting), len(self._written))
        if self._baseline is not None:
            volume = front_hypervolume(meeting, self._baseline, limits.target_ms)
            self._writer.add_scalar("front/hypervolume", volume, len(self._written))

    def __enter__(self) -> TensorBoardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self()
        self._writer.close()


def check(folder: str) -> None:
    """Check that TensorBoard files can be written.

    Raises:
        UsageError: its package is missing, or a file has the folder's name.
    """
    if find_spec("tensorboard") is None:
        raise UsageError(
            "--tensorboard needs the package tensorboard, which is not installed: "
            "pip install 'autocompress[tensorboard]'"
        )
    if Path(folder).exists() and not Path(folder).is_dir():
        raise UsageError(f"--tensorboard must be a folder, which need not exist; {folder!r} is a file.")
