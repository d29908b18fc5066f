"""Files that are whole whatever happens, and on the disk when they are said to be."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autocompress.files import copy_atomically, write_atomically

FILL_DISK = """
import resource, signal, sys
from pathlib import Path
from autocompress.files import write_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), b"new" * 1000)
except OSError as error:
    print(error.errno)
"""


def contents(path: Path) -> dict[str, bytes]:
    """Return every file below a directory with its content."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return what is written to the disk, by inode, and when names are changed."""
    found: list[tuple[str, int]] = []
    fsync, replace = os.fsync, Path.replace

    def watched_fsync(handle: int) -> None:
        fsync(handle)
        found.append(("synced", os.fstat(handle).st_ino))

    def watched_replace(path: Path, target: Path) -> Path:
        done = replace(path, target)
        found.append(("named", target.stat().st_ino))
        return done

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    return found


def test_a_power_cut_costs_nothing_that_was_written(tmp_path: Path, synced: list[tuple[str, int]]) -> None:
    """The content is on the disk before it has its name, then the name, and before both the folders that are new."""
    file = tmp_path / "trials" / "00001" / "model.onnx"
    write_atomically(file, b"weights")
    above = [("synced", folder.stat().st_ino) for folder in (tmp_path, file.parents[1])]
    content, name = ("synced", file.stat().st_ino), ("named", file.stat().st_ino)
    assert synced == [*above, content, name, ("synced", file.parent.stat().st_ino)]


def test_a_copy_is_written_in_the_same_way(tmp_path: Path, synced: list[tuple[str, int]]) -> None:
    """Its content is on the disk, and so is its name."""
    (tmp_path / "a").write_bytes(b"weights")
    copy_atomically(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path) == {"a": b"weights", "b": b"weights"}
    assert [what for what, _ in synced] == ["synced", "named", "synced"]


def test_a_full_disk_leaves_the_old_content(tmp_path: Path) -> None:
    """When writing fails half-way the file is as it was, and no part of the new one is left."""
    file = tmp_path / "study.json"
    file.write_text("old")
    command = [sys.executable, "-c", FILL_DISK, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
    assert contents(tmp_path) == {"study.json": b"old"}


def test_an_interrupt_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads sees the old content, and no half of the new one is left."""
    write_atomically(tmp_path / "engine", b"old")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "engine", b"new")
    assert contents(tmp_path) == {"engine": b"old"}


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set what this process denies."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_writing_replaces_the_content(umask: int, tmp_path: Path) -> None:
    """Folders are made, the old content is gone, and the umask says who may read the new one."""
    file = tmp_path / "a" / "b.json"
    for content in (b"one", b"two"):
        write_atomically(file, content)
    assert contents(tmp_path) == {"a/b.json": b"two"}
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    """What a link of the file's name leads to stays as it is."""
    (tmp_path / "precious").write_bytes(b"kept")
    (tmp_path / "file").symlink_to("precious")
    write_atomically(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert contents(tmp_path) == {"file": b"new", "precious": b"kept"}
