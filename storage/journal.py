"""The journal of a run directory: Optuna's file, read fast, locked by the kernel, and complete after any failure.

Optuna writes a line for every parameter and attribute of a trial, and applies them one by one. The first reading joins
the lines of each trial into one instead; if anything is unusual, it passes all lines on unchanged.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO, Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # part of a public signature, exported nowhere
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState

Line = dict[str, Any]

ON_DISK = (JournalOperation.SET_TRIAL_STATE_VALUES, JournalOperation.SET_STUDY_USER_ATTR)
"""After these lines a power cut loses nothing that they complete: they and all lines before them are on the disk."""


class Journal(JournalFileBackend):
    """A journal file; an incomplete last line of a dead writer is removed."""

    def __init__(self, path: Path) -> None:
        self._mend(path)
        super().__init__(str(path), lock_obj=_FileLock(path.with_name(".journal.lock")))
        self._left_out = 0

    def read_logs(self, log_number_from: int) -> Generator[Line, None, None]:
        """Yield the lines from a number on; the first time, one for each trial."""
        if log_number_from:
            yield from super().read_logs(log_number_from + self._left_out)
            return
        lines = list(super().read_logs(0))
        told = condensed(lines)
        self._left_out = len(lines) - len(told)
        yield from told

    def _mend(self, path: Path) -> None:
        if path.exists():
            content = path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(path, whole)

    def append_logs(self, logs: list[Line]) -> None:
        """Write lines completely or not at all, and to the disk if their content must not be lost."""
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._lock.acquire()
        try:
            with Path(self._file_path).open("ab", buffering=0) as file:
                before, left = file.seek(0, os.SEEK_END), memoryview(content)
                try:
                    while left:
                        left = left[file.write(left) :]
                    if any(log["op_code"] in ON_DISK for log in logs):
                        os.fsync(file.fileno())
                except OSError:
                    os.truncate(self._file_path, before)
                    raise
        finally:
            self._lock.release()


class ReadJournal(Journal):
    """A journal file that exists and is only read, while another process may write to it; only complete lines count."""

    def _mend(self, path: Path) -> None:
        pass

    def append_logs(self, logs: list[Line]) -> None:
        """Refuse to write."""
        raise io.UnsupportedOperation("this journal is only read")


def condensed(lines: list[Line]) -> list[Line]:
    """Return lines that give the same study, with each trial's lines joined at the position of the first."""
    try:
        return _condensed(lines)
    except _UnusualError:
        return lines


class _UnusualError(Exception):
    """A line that only Optuna can interpret."""


def _condensed(lines: Iterable[Line]) -> list[Line]:
    told: list[Line] = []
    trials: list[Line] = []
    distributions: dict[str, str] = {}  # of the only study
    for line in lines:
        match line["op_code"]:
            case JournalOperation.CREATE_STUDY | JournalOperation.SET_STUDY_USER_ATTR:
                told.append(line)
            case JournalOperation.SET_STUDY_SYSTEM_ATTR:
                told.append(line)
            case JournalOperation.CREATE_TRIAL:
                for name, kind in line.get("distributions", {}).items():
                    _expect(distributions.setdefault(name, kind) == kind)
                _expect(line.get("value") is None and not line.get("intermediate_values"))
                empty: Line = {"params": {}, "distributions": {}, "user_attrs": {}, "system_attrs": {}}
                trials.append({**empty, "state": TrialState.RUNNING.value, **line})
                told.append(trials[-1])
            case _:
                _expect("trial_id" in line and line["trial_id"] < len(trials))
                trial = trials[line["trial_id"]]
                if not TrialState(trial["state"]).is_finished():  # else Optuna does not listen either
                    _apply(line, trial, distributions)
    _expect(len({line["study_id"] for line in trials}) < 2)
    return told


def _apply(line: Line, trial: Line, distributions: dict[str, str]) -> None:
    """Apply a line to a trial."""
    match line["op_code"]:
        case JournalOperation.SET_TRIAL_PARAM:
            name, kind = line["param_name"], line["distribution"]
            _expect(distributions.setdefault(name, kind) == kind)
            trial["params"][name] = line["param_value_internal"]
            trial["distributions"][name] = kind
        case JournalOperation.SET_TRIAL_USER_ATTR:
            trial["user_attrs"].update(line["user_attr"])
        case JournalOperation.SET_TRIAL_SYSTEM_ATTR:
            trial["system_attrs"].update(line["system_attr"])
        case JournalOperation.SET_TRIAL_STATE_VALUES:
            state = TrialState(line["state"])
            if state == TrialState.RUNNING and trial["state"] == state.value:
                return  # another was faster
            trial["state"] = line["state"]
            if state == TrialState.RUNNING:
                trial["datetime_start"] = line["datetime_start"]
            if state.is_finished():
                trial["datetime_complete"] = line["datetime_complete"]
            if line["values"] is not None:
                trial["values"] = line["values"]
        case _:
            raise _UnusualError


def _expect(usual: bool) -> None:
    if not usual:
        raise _UnusualError


class _FileLock(BaseJournalFileLock):
    """A lock that the kernel frees when its holder dies; Optuna's own lock waits half a minute for that."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        self._file = self.path.open("a")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
