"""Gives all drivers of a study in a database the same start: the first one's network, profile and calibration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RunDirectoryError
from .backends import open_study
from .fingerprint import differences
from .run_directory import RunDirectory

if TYPE_CHECKING:
    import optuna
    from torch import Tensor

    from ..studies.task import Task
    from .rdb import PatientRDBStorage

FILES = ("profile.json", "calibration.json")
"""Files of a run directory with what is learned before the first trial; the study has them as attributes."""


@contextmanager
def prepare_exclusively(
    database: PatientRDBStorage | None,
    task: Task,
    rundir: RunDirectory,
    identity: Mapping[str, str],
    notice: Callable[[str], object],
    fingerprint: Mapping[str, object],
) -> Iterator[None]:
    """Let one driver at a time prepare a study in a database; later drivers reuse what the first one found.

    Args:
        database: what holds the study; None where the run directory does, and nothing is shared.
        task: the network.
        rundir: this driver's directory.
        identity: what must be the same for all drivers, including the study's name.
        notice: receives a message while another driver is preparing.
        fingerprint: the task's; see `fingerprint_of`.

    Raises:
        RunDirectoryError: see `join`.
    """
    if database is None:
        yield
        return
    database.notice = notice
    with database.alone(f"{identity['study']}, before its trials"):
        study = open_study(database, identity["study"])
        join(study, task, rundir, identity)
        _compare(study, task, fingerprint)
        yield
        contribute(study, task, rundir, identity)


def join(study: optuna.Study, task: Task, rundir: RunDirectory, identity: Mapping[str, str]) -> None:
    """Write the study's first profile and calibration to this driver's directory, if it has the same network.

    Raises:
        RunDirectoryError: the study was started with another network or other settings.
    """
    known = study.user_attrs
    for name, mine in {**identity, "weights": weights(task, rundir.path)}.items():
        theirs = known.get("identity", {}).get(name, mine)
        if theirs != mine:
            raise RunDirectoryError(
                f"all drivers of a study in a database must have the same {name}; {study.study_name!r} was started "
                f"with {theirs!r}, this one has {mine!r}. Give the same, or another database with --storage."
            )
    for name in FILES:
        if name in known:
            rundir.write_json(name, known[name])


def _compare(study: optuna.Study, task: Task, fingerprint: Mapping[str, object]) -> None:
    """Compare a task's fingerprint with the first driver's, which the study keeps.

    Raises:
        RunDirectoryError: the fingerprints differ.
    """
    if "fingerprint" not in study.user_attrs:
        study.set_user_attr("fingerprint", dict(fingerprint))
        return
    others = differences(study.user_attrs["fingerprint"], fingerprint, task)
    if others:
        raise RunDirectoryError(
            f"all drivers of a study in a database must have the same task; the task {study.study_name!r} was "
            f"started with has another {', another '.join(others)}. Give the same, or another database with --storage."
        )


def contribute(study: optuna.Study, task: Task, rundir: RunDirectory, identity: Mapping[str, str]) -> None:
    """Store this driver's start with the study, for those who join; only one driver at a time may call it."""
    for name in FILES:
        path = rundir.path / name
        if name not in study.user_attrs and path.exists():
            study.set_user_attr(name, json.loads(path.read_text()))
    if "identity" not in study.user_attrs:
        study.set_user_attr("identity", {**identity, "weights": weights(task, rundir.path)})


def weights(task: Task, folder: Path) -> str:
    """Return a digest of the weights that a run resumes with: those in its directory, else the task's."""
    from safetensors.torch import load_file  # noqa: PLC0415  # start-up time: torch is slow to import

    found = hashlib.sha256()
    for name, model in (("original", task.model), ("student", task.student)):
        if model is not None:
            path = folder / "baseline" / f"{name}.safetensors"
            _add(found, load_file(path) if path.exists() else model.state_dict())
    return found.hexdigest()[:16]


def _add(digest: hashlib._Hash, state: Mapping[str, Tensor]) -> None:
    import torch  # noqa: PLC0415  # start-up time: torch is slow to import

    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
