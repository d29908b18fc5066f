"""A run directory: the one place on disk that a study writes to, held by one driver at a time.

study.json          the study's identity, which another study may not use; and the last invocation
fingerprint.json    fingerprints of its network, data, loss, metric and training; others are refused
study.journal       the Optuna study, unless a database holds it
profile.json        the profile of the network, made before the first trial
baseline/           the unchanged network: model.onnx, model.safetensors, measurement.json, …
answers/            the teacher's outputs for batches of the training data; may be deleted at any time
trials/NNNNN/       the files of a trial, while it is on the front
models/ID/          models with a final evaluation: the front, the reference baselines, and dominated ones
finished.json       the limits of the final evaluation, and the number of trials before it
pareto.csv, pareto.png, trials.csv
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError
from ..evaluators.measurement import Infeasible, Measurements
from ..evaluators.outcome_json import from_json
from ..files import full, write_atomically
from .artifacts import ArtifactStore, LocalArtifacts

FORMAT = 2
"""Version of the layout; another one is refused."""

RECORD = "measurement.json"
"""File in a model's folder that says that the model is complete."""

OPTIONAL = {"artifacts": "--artifacts URL", "sizes": "--compact"}
"""Identity fields of some studies only, with the option that sets them."""


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Turn a full disk into an error with the way out.

    Raises:
        RunDirectoryError: there is no room.
    """
    try:
        yield
    except OSError as error:
        if not full(error):
            raise
        raise RunDirectoryError(
            f"a run directory must have room for its study and its models; the disk of {str(path)!r} is full. "
            "No finished trial is lost: free some space, and run the same command to resume."
        ) from error


def enclosed(path: Path) -> None:
    """Check that a run directory, which may be a stranger's, has only files and folders, and no link that leads out.

    Raises:
        RunDirectoryError: it has something else; nothing may be read, written or deleted there.
    """
    root = path.resolve()
    for folder, folders, files in os.walk(root):
        for entry in (Path(folder, name) for name in (*folders, *files)):
            with suppress(FileNotFoundError):  # its driver has tidied it away
                mode = entry.lstat().st_mode
                if stat.S_ISLNK(mode) and not Path(os.path.realpath(entry)).is_relative_to(root):
                    raise RunDirectoryError(
                        f"a run directory must hold all that it needs; {str(entry)!r} is a link out of it. "
                        "Delete the link, or move there what it leads to."
                    )
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                    raise RunDirectoryError(
                        f"a run directory must hold files and folders; {str(entry)!r} is neither. Delete it."
                    )


def check(path: Path, identity: Mapping[str, str]) -> None:
    """Check, without writing, that a study may use a directory.

    Args:
        path: the directory, which need not exist.
        identity: what must be the same to resume the study there.

    Raises:
        RunDirectoryError: it cannot be written, or it belongs to another study.

    """
    ancestor = path.absolute()
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    try:
        with tempfile.TemporaryDirectory(dir=ancestor):
            pass
    except OSError as error:
        raise RunDirectoryError(
            f"--out must be a directory that can be written; {str(path)!r} cannot ({error.strerror}). "
            "Give another one with --out DIR."
        ) from error
    manifest = path / "study.json"
    if path.is_dir() and not manifest.exists() and any(entry.name != ".lock" for entry in path.iterdir()):
        raise RunDirectoryError(
            f"--out must be a new directory or one of autocompress; {str(path)!r} holds other files. "
            "Give another one with --out DIR."
        )
    if path.is_dir():
        enclosed(path)
    if manifest.exists():
        _compare(path, json.loads(manifest.read_text()), identity)


def _compare(path: Path, manifest: Mapping[str, object], identity: Mapping[str, str]) -> None:
    for key, value in {"format": FORMAT, **identity}.items():
        if manifest.get(key) != value:
            raise RunDirectoryError(
                f"a run directory is resumed with the study it was started with; {str(path)!r} has "
                f"{key} {manifest.get(key)!r}, this command asks for {value!r}. Give another directory with --out DIR."
            )
    for key, option in OPTIONAL.items():
        if key in manifest and key not in identity:
            raise RunDirectoryError(
                f"a run directory is resumed with the study it was started with; {str(path)!r} has {key} "
                f"{manifest[key]!r}, this command has none. Give {option} again, or another directory with --out DIR."
            )


class RunDirectory:
    """A run directory that this process holds until `close`, or until it dies; ``fresh`` if it is new.

    Its ``artifacts`` keep the files of trials: the directory itself, unless that is changed.

    Args:
        path: the directory.
        identity: see `check`.
        asked: the new invocation; see `Invocation`.

    Raises:
        RunDirectoryError: see `check`; or another process holds it.

    """

    def __init__(self, path: Path, identity: Mapping[str, str], asked: Mapping[str, object] | None = None) -> None:
        check(path, identity)
        self._made = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.artifacts: ArtifactStore = LocalArtifacts()
        self.fresh = not (path / "study.json").exists()
        self._lock = (path / ".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise RunDirectoryError(
                f"a run directory is driven by one process at a time; another one is working in {str(path)!r}. "
                "Wait for it, or give another directory with --out DIR."
            ) from error
        self.write_json("study.json", {"format": FORMAT, **identity, **({"asked": asked} if asked else {})})

    @property
    def trials(self) -> Path:
        """The folder of trials' files."""
        return self.path / "trials"

    @property
    def models(self) -> Path:
        """The folder of the front's models."""
        return self.path / "models"

    def discard(self) -> None:
        """Delete the directory with all its content, and the parents that were made for it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # somebody else has put something there
            for folder in self._made:
                if folder != self.path:
                    folder.rmdir()

    def write_json(self, name: str, content: Mapping[str, object]) -> None:
        """Write a JSON file atomically."""
        write_atomically(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def close(self) -> None:
        """Release the directory to other processes."""
        self._lock.close()


def read_record(folder: Path, runtimes: Collection[str] | None = None) -> Measurements | None:
    """Return the measurements in a model's folder; None if the folder is not complete.

    Args:
        folder: the model's folder.
        runtimes: the runtimes in Python files that it may name; None for any, where nothing is served again.

    Raises:
        RunDirectoryError: autocompress has not written the record, or not for these runtimes.
    """
    try:
        text = (folder / RECORD).read_text()
    except OSError:
        return None
    try:
        outcome = from_json(text)
    except json.JSONDecodeError:
        return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunDirectoryError(
            f"a record must be as autocompress writes it; {str(folder / RECORD)!r} is not "
            f"({type(error).__name__}: {error}). Delete the folder."
        ) from error
    if isinstance(outcome, Infeasible):
        return None
    code = {each.latency.runtime for each in outcome if ".py" in each.latency.runtime}
    if runtimes is not None and code - set(runtimes):
        raise RunDirectoryError(
            f"a runtime in a Python file must be named on the command line to be run; {str(folder / RECORD)!r} is of "
            f"{', '.join(sorted(code))}. Delete the folder, or give another directory with --out DIR."
        )
    return outcome


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
