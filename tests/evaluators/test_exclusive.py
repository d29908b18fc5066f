"""Who has the machine: real processes, real locks."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from autocompress.evaluators.exclusive import exclusive, off_the_floor, pause, quiet, training, waited_s

TRAINER = """
import itertools, sys, time
from autocompress.evaluators.exclusive import pause, training
with training():
    for batch in itertools.count():
        pause()
        print(batch, flush=True)
        time.sleep({batch_s})
"""


@pytest.fixture(autouse=True)
def _own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep away from whoever else measures here."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


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
    """All of them, at their next batch, and they go on afterwards."""
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
    code = "from autocompress.evaluators.exclusive import exclusive\nwith exclusive({!r}): print('in', flush=True)"

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
