"""The folder for temporary files: nobody else's is believed, and nothing but our own leavings is deleted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autocompress import cli
from autocompress.errors import UsageError
from autocompress.evaluators.scratch import FOLDER, leave_shared_folders, private_folder, scratch, shared_folder

HOLD = """
import sys, time
from autocompress.evaluators.scratch import scratch
with scratch() as folder:
    (folder / "model.onnx").touch()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where this user's folder is to be, in a place of the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path / "tmp" / FOLDER


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with files that are old, and precious."""
    home = tmp_path / "home"
    (home / "thesis").mkdir(parents=True)
    (home / "thesis" / "chapter.tex").write_text("all of it")
    (home / "photo.jpg").write_text("the only one")
    for path in (home / "thesis", home / "photo.jpg", home):
        aged(path)
    return home


def aged(path: Path) -> Path:
    """Make a file or folder look old."""
    os.utime(path, (0, 0))
    return path


def names(place: Path) -> set[str]:
    """Return all that is below a folder."""
    return {str(path.relative_to(place)) for path in place.rglob("*")}


def test_it_is_made_for_this_user_alone(folder: Path) -> None:
    """Nobody else can enter it, nor what is in it."""
    with scratch() as place:
        assert place.parent == folder
        assert [path.stat().st_mode & 0o777 for path in (folder, place)] == [0o700, 0o700]
    assert names(folder) == set()


def linked(folder: Path, home: Path) -> None:
    """Lead to the user's own files."""
    folder.symlink_to(home)


def opened(folder: Path, home: Path) -> None:
    """Let everybody in."""
    folder.mkdir()
    folder.chmod(0o777)


def replaced(folder: Path, home: Path) -> None:
    """Be a file."""
    folder.write_text("no folder")


@pytest.mark.parametrize(
    ("attack", "said"), [(linked, "is a link"), (opened, "has mode 777"), (replaced, "is no folder")]
)
def test_the_folder_of_a_stranger_is_refused(
    attack: Callable[[Path, Path], None], said: str, folder: Path, home: Path
) -> None:
    """A link, a folder that others may enter, or a file in its place is an error that tells the way out."""
    attack(folder, home)
    before = names(home.parent)
    with pytest.raises(UsageError, match=f"{said}.*set TMPDIR"), scratch():
        pass
    assert names(home.parent) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give a folder away")
def test_the_folder_of_another_user_is_refused(folder: Path) -> None:
    """Its owner could read and change all that is put there."""
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(UsageError, match="belongs to user 12345"), scratch():
        pass


@pytest.mark.parametrize("words", [["--target-latency", "5ms", "--out", "run"], ["doctor", "--runtime", "onnxruntime"]])
def test_a_command_ends_with_a_sentence(
    words: list[str], folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written where a link leads, and no run is begun."""
    linked(folder, home)
    monkeypatch.chdir(tmp_path)
    before = names(home)
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert "must be one that nobody else can enter" in result.output
    assert names(home) == before
    assert not (tmp_path / "run").exists()


def test_what_is_not_ours_is_left_alone(folder: Path, home: Path) -> None:
    """Old files of other names stay, and so does what a link leads to."""
    folder.mkdir(mode=0o700)
    (folder / "notes.txt").write_text("mine")
    aged(folder / "notes.txt")
    (folder / f"scratch-{'a' * 32}").symlink_to(home)
    os.utime(folder / f"scratch-{'a' * 32}", (0, 0), follow_symlinks=False)
    before = names(home), names(folder)
    with scratch():
        pass
    assert (names(home), names(folder)) == before


def test_what_a_killed_process_left_is_deleted_and_what_is_used_is_not(folder: Path) -> None:
    """The next process clears away old folders that no process uses; its own folder goes with it."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = aged(Path(process.stdout.readline().strip()))
        with scratch() as other:
            assert {*folder.iterdir()} == {left, other}
        process.send_signal(signal.SIGKILL)
    with scratch() as other:
        assert {*folder.iterdir()} == {other}
    assert names(folder) == set()


def test_what_is_deleted_stays_in_the_folder_that_was_checked(folder: Path, home: Path) -> None:
    """Where its name leads elsewhere meanwhile, nothing is deleted there."""
    precious = home / f"scratch-{'b' * 32}"
    precious.mkdir()
    aged(precious)
    with private_folder():
        folder.rename(folder.with_name("moved"))
        folder.symlink_to(home)
        with pytest.raises(UsageError), scratch():
            pass
    assert precious.is_dir()


def test_a_process_with_a_model_has_it_from_there(folder: Path) -> None:
    """A file that is served once lies in this user's folder, and is gone afterwards."""
    import numpy as np

    from autocompress.errors import InfeasibleError
    from autocompress.evaluators.meters.serve_once import serve_once

    with pytest.raises(InfeasibleError):
        serve_once("onnxruntime", b"no model", [[np.zeros(1, np.float32)]])
    assert folder.is_dir()
    assert not any(path.name.startswith("autocompress") for path in folder.parent.iterdir() if path != folder)


def test_a_shared_folder_lives_as_long_as_a_process_that_has_asked_for_it(folder: Path) -> None:
    """Processes that ask by one name get one folder, and the next to look in deletes it when they are gone."""
    name = "c" * 32
    code = f"""
import sys
from autocompress.evaluators.scratch import shared_folder
print(shared_folder("{name}"), flush=True)
sys.stdin.read()
"""
    places = []
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            places.append(Path(process.stdout.readline().strip()))
        assert places == [folder / name] * 2
        (folder / name / "answer").touch()
        aged(folder / name)
        process.kill()
        process.wait()
        with scratch():
            assert (folder / name / "answer").exists()
    with scratch():
        assert not (folder / name).exists()
    assert shared_folder("d" * 32).is_dir()


def test_the_last_process_to_leave_a_shared_folder_deletes_it(folder: Path) -> None:
    """A folder that another process still shares is left; nothing of it stays when that one leaves too."""
    name = "e" * 32
    leave = "from autocompress.evaluators.scratch import *\n"
    leave += f"print(shared_folder('{name}'), flush=True)\ninput()\nleave_shared_folders()"
    with subprocess.Popen(
        [sys.executable, "-c", leave], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline().strip() == str(shared_folder(name))
        (folder / name / "answer").touch()
        leave_shared_folders()
        assert (folder / name / "answer").exists()
        other.communicate("\n", timeout=60)
    assert not (folder / name).exists()
