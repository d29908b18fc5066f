"""A run directory: the one place on disk that a study writes to, held by one driver at a time.

study.json          what the study is, a directory of another one is refused; and what was asked of it last
fingerprint.json    by what its network, data, loss, metric and training are known again; others are refused
study.journal       the Optuna study, unless a database holds it
profile.json        what was learned of the network before the first trial
baseline/           the unchanged network: model.onnx, model.safetensors, measurement.json, …
trials/NNNNN/       what is built for a trial, for as long as it is on the front
models/ID/          what was taken to the end: the front, the reference baselines, and what fell behind there
finished.json       for which limits, and after how many trials, the front was taken to the end
pareto.csv, pareto.png, trials.csv
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import RunDirectoryError
from ..files import full, write_atomically
from .artifacts import ArtifactStore, LocalArtifacts

FORMAT = 2
"""Version of the layout; another one is refused."""

OPTIONAL = {"artifacts": "--artifacts URL", "sizes": "--compact"}
"""What only some studies are, and the option that asks for it."""


@contextmanager
def room(path: Path) -> Iterator[None]:
    """Turn a disk that is full into an error that tells the way out.

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
            "Nothing that was finished is lost: free some of it, and the same command goes on."
        ) from error


def enclosed(path: Path) -> None:
    """Check that a run directory, which may be a stranger's, has files and folders only, and no link that leads out.

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
    """Check, writing nothing, that a study may use a directory.

    Args:
        path: the directory, which need not exist.
        identity: what must be the same for the study to go on there.

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
                f"a run directory goes on with the study it was begun with; {str(path)!r} has "
                f"{key} {manifest.get(key)!r}, this command asks for {value!r}. Give another directory with --out DIR."
            )
    for key, option in OPTIONAL.items():
        if key in manifest and key not in identity:
            raise RunDirectoryError(
                f"a run directory goes on with the study it was begun with; {str(path)!r} has {key} {manifest[key]!r}, "
                f"this command has none. Give {option} again, or another directory with --out DIR."
            )


class RunDirectory:
    """A run directory that this process holds until `close`, or until it dies; ``fresh`` when it was not one before.

    Its ``artifacts`` are where workers keep the files of trials, which is the directory itself unless that is changed.

    Args:
        path: the directory.
        identity: see `check`.
        asked: what is asked of it this time; see `Asked`.

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
        """Where trials keep what they build."""
        return self.path / "trials"

    @property
    def models(self) -> Path:
        """Where the models of the front are."""
        return self.path / "models"

    def discard(self) -> None:
        """Delete the directory and all that is in it, and those above it that were made for it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # somebody else has put something there
            for folder in self._made:
                if folder != self.path:
                    folder.rmdir()

    def write_json(self, name: str, content: Mapping[str, object]) -> None:
        """Write a JSON file atomically."""
        write_atomically(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def close(self) -> None:
        """Let another process have the directory."""
        self._lock.close()
