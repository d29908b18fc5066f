"""Who has the machine: real processes, real locks."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

import pytest
from typer.testing import CliRunner

from autocompress import cli
from autocompress.errors import UsageError
from autocompress.evaluators import device_lock as module
from autocompress.evaluators.device_lock import exclusive, lock_folder, off_the_floor, pause, quiet, training, waited_s

TRAINER = """
import itertools, sys, time
from autocompress.evaluators.device_lock import pause, training
with training():
    for batch in itertools.count():
        pause()
        print(batch, flush=True)
        time.sleep({batch_s})
"""


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep away from other processes that measure here."""
    monkeypatch.setenv("AUTOCOMPRESS_LOCKS", str(tmp_path))


@contextmanager
def trainer(batch_s: float = 0.01) -> Iterator[IO[str]]:
    """Run a process that trains; yield what it says, a line a batch."""
    code = TRAINER.format(batch_s=batch_s)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield process.stdout
        finally:
            process.kill()


def drained(said: IO[str]) -> None:
    """Read all that a trainer has said so far."""
    while speaks(said, 0.0):
        os.read(said.fileno(), 4096)


def speaks(said: IO[str], seconds: float) -> bool:
    """Return whether a trainer goes through a batch within some seconds."""
    return bool(select.select([said], [], [], seconds)[0])


def test_trainers_pause_while_something_is_measured() -> None:
    """All of them, at their next batch, and they continue afterwards."""
    with trainer() as one, trainer() as other:
        with quiet(patience_s=60.0) as alone:
            assert alone
            for said in (one, other):
                drained(said)
            assert not speaks(one, 0.3)
            assert not speaks(other, 0.3)
        assert speaks(one, 60.0)
        assert speaks(other, 60.0)


def test_whoever_does_not_make_way_is_told() -> None:
    """After some patience the measurement begins, and knows that it is not alone."""
    with trainer(batch_s=3600.0), quiet(patience_s=0.2) as alone:
        assert not alone


def test_a_killed_trainer_leaves_the_floor() -> None:
    """The kernel lets go."""
    with trainer(batch_s=3600.0):
        pass
    with quiet(patience_s=5.0) as alone:
        assert alone


def test_a_trainer_does_not_wait_for_its_own_measurement() -> None:
    """It leaves the floor for it, however deep in it is, and is back on it afterwards."""
    with training(), training():
        with off_the_floor(), quiet(patience_s=0.2) as alone:
            assert alone
        with quiet(patience_s=0.0) as alone:
            assert not alone
        pause()
    with quiet(patience_s=0.0) as alone:
        assert alone


def test_a_device_has_one_holder() -> None:
    """Another process waits, for the same device only."""
    code = "from autocompress.evaluators.device_lock import exclusive\nwith exclusive({!r}): print('in', flush=True)"

    def enters(device: str) -> Callable[[], int | None]:
        return subprocess.Popen([sys.executable, "-c", code.format(device)], stdout=subprocess.DEVNULL).poll

    with exclusive("cpu"):
        same, other = enters("cpu"), enters("gpu-1")
        end = time.monotonic() + 60
        while other() is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert same() is None
    end = time.monotonic() + 60
    while same() is None:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_is_waited_is_counted() -> None:
    """Time off the floor is told apart, so that it is not a trial's own; time on it is not."""
    before = waited_s()
    with training():
        time.sleep(0.1)
        on_it = waited_s() - before
        with off_the_floor():
            time.sleep(0.2)
            assert waited_s() - before >= on_it + 0.2  # as others see it, who look meanwhile
    assert waited_s() - before >= on_it + 0.2


@contextmanager
def holder(name: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that holds a lock."""
    code = (
        "import fcntl, sys, time; lock = open(sys.argv[1], 'a'); fcntl.flock(lock, fcntl.LOCK_EX);"
        "print('held', flush=True); time.sleep(600)"
    )
    path = lock_folder() / f"autocompress-{name}.lock"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_who_holds_a_lock_for_long_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock and the process are named, and when that ends it continues."""
    monkeypatch.setattr(module, "LONG_S", 0.2)
    with holder("turnstile") as process:
        waiter = threading.Thread(target=lambda: quiet().__enter__(), daemon=True)
        waiter.start()
        end = time.monotonic() + 60
        while "held by" not in caplog.text:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert waiter.is_alive()
        assert f"autocompress-turnstile.lock for 0.2 s, which is held by process {process.pid} (" in caplog.text
        process.kill()
        waiter.join(60)
        assert not waiter.is_alive()


def fifo(path: Path) -> None:
    """Make a process that opens it wait for ever."""
    os.mkfifo(path)


def folder(path: Path) -> None:
    """Be no file."""
    path.mkdir()


def link(path: Path) -> None:
    """Lead to another user's file."""
    (path.parent / "another's").touch()
    path.symlink_to(path.parent / "another's")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("attack", [fifo, folder, link])
@pytest.mark.parametrize(
    ("name", "act"), [("training", training), ("turnstile", quiet), ("device-cpu", lambda: exclusive("cpu"))]
)
def test_what_is_no_lock_is_told(
    attack: Callable[[Path], None], name: str, act: Callable[[], AbstractContextManager[object]]
) -> None:
    """Nobody waits for what a stranger has put in its place, or follows it."""
    path = lock_folder() / f"autocompress-{name}.lock"
    attack(path)
    with pytest.raises(UsageError, match=r"must be a file that everybody may open.*AUTOCOMPRESS_LOCKS"), act():
        pass


@pytest.mark.timeout(60)
def test_a_run_is_not_begun_without_locks(tmp_path: Path) -> None:
    """The command ends with a sentence."""
    fifo(lock_folder() / "autocompress-turnstile.lock")
    result = CliRunner().invoke(cli.app, ["--target-latency", "5ms", "--out", str(tmp_path / "run")])
    assert (result.exit_code, "it is no file" in result.output) == (2, True)
    assert not (tmp_path / "run").exists()


def test_the_locks_are_the_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes with other folders for temporary files share the locks, unless there is no place for them."""
    monkeypatch.delenv("AUTOCOMPRESS_LOCKS")
    closed, shared, mine = (tmp_path / name for name in ("closed", "shared", "mine"))
    for place, mode in ((closed, 0o755), (shared, 0o1777), (mine, 0o700)):
        place.mkdir()
        place.chmod(mode)
    monkeypatch.setattr(module, "FOLDERS", (tmp_path / "none", closed, shared))
    for temporary in (mine, tmp_path):
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        assert lock_folder() == shared
    monkeypatch.setattr(module, "FOLDERS", (closed,))
    assert lock_folder() == tmp_path
