"""Ownership of trials: one process drives the run directory, and others may share its study in a database."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..files import write_atomically
from .heartbeat import SILENT_S, Heartbeat

if TYPE_CHECKING:
    from .rdb import PatientRDBStorage

NAME = "driver"
"""File in a run directory, and attribute of a trial, with the owner. A directory has one driver at a time."""


class TrialOwnership:
    """Says which driver owns a trial, and which trials have lost theirs.

    Args:
        study: the study.
        database: what holds the study; None for a journal, whose only driver holds the run directory.
        folder: the run directory of this driver.

    """

    def __init__(self, study: optuna.Study, database: PatientRDBStorage | None, folder: Path) -> None:
        self._study = study
        self._database = database
        self._first_seen: dict[int, float] = {}
        self._heartbeat: Heartbeat | None = None
        self._notice: Callable[[str], object] = lambda text: None
        if self._database is not None:
            self._heartbeat = Heartbeat(self._database)
            path = folder / NAME
            if not path.exists():
                write_atomically(path, uuid.uuid4().hex.encode())
            self._me = path.read_text()

    @property
    def several(self) -> bool:
        """Whether there may be other drivers."""
        return self._database is not None

    @property
    def notice(self) -> Callable[[str], object]:
        """Called while the database is away, or another driver is waited for."""
        return self._notice

    @notice.setter
    def notice(self, notice: Callable[[str], object]) -> None:
        self._notice = notice
        if self._database is not None:
            self._database.notice = notice

    def alone(self) -> AbstractContextManager[None]:
        """Exclude other drivers while the context lasts, if there may be any."""
        if self._database is None:
            return nullcontext()
        return self._database.alone(self._study.study_name)

    def take(self, trial: optuna.Trial) -> None:
        """Record that a trial is this driver's."""
        if self._heartbeat is not None:
            self._heartbeat.begin(trial._trial_id)
            trial.set_user_attr(NAME, self._me)

    def leave(self, trial: optuna.Trial) -> None:
        """Record that a trial is no longer this driver's."""
        if self._heartbeat is not None:
            self._heartbeat.end(trial._trial_id)

    def orphans(self, mine: Collection[int]) -> list[FrozenTrial]:
        """Return the running trials without a living driver, neither this process nor another.

        Args:
            mine: numbers of the trials that this process runs.

        """
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        others = [trial for trial in running if trial.number not in mine]
        if self._database is None or not others:
            return others
        silent, never = self._database.stale(self._study._study_id, SILENT_S)
        now = time.monotonic()
        self._first_seen = {trial_id: self._first_seen.get(trial_id, now) for trial_id in never}
        silent |= {trial_id for trial_id, since in self._first_seen.items() if now - since > SILENT_S}
        return [t for t in others if t._trial_id in silent or t.user_attrs.get(NAME) == self._me]

    def close(self) -> None:
        """Stop recording."""
        if self._heartbeat is not None:
            self._heartbeat.close()
