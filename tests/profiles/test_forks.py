"""Calls in several processes at a time."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.evaluators.device_lock import LOCKS, quiet
from autocompress.profiles.forks import in_forks

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = os.getpid()


def where(number: int) -> tuple[int, bool]:
    """Return a number's square, and whether it was computed in this process."""
    return number**2, os.getpid() == HERE


def fragile(number: int) -> tuple[int, bool]:
    """Do the same, but kill any other process for one of the numbers, when those before it have been answered."""
    if number == 3 and os.getpid() != HERE:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return where(number)


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_answers_come_in_order(processes: int) -> None:
    """However many processes share the calls, the answers are the same, and one process is this one."""
    with in_forks(where, range(7), processes) as found:
        answers = list(found)
    assert [square for square, _ in answers] == [number**2 for number in range(7)]
    assert {here for _, here in answers} == {processes == 1}


def test_what_a_killed_fork_has_not_answered_is_computed_here() -> None:
    """No answer is lost, and none comes twice."""
    with in_forks(fragile, range(9), 2) as found:
        answers = list(found)
    assert [square for square, _ in answers] == [number**2 for number in range(9)]
    assert answers[3][1]
    assert not answers[0][1]


def test_forks_work_before_their_answers_are_wanted(tmp_path: Path) -> None:
    """What is called aside runs while this process does something else."""

    def leave(number: int) -> None:
        (tmp_path / str(number)).touch()

    with in_forks(leave, range(3), 2):
        end = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(list(tmp_path.iterdir())) == 3


def test_calls_that_nobody_wants_any_more_are_not_made(tmp_path: Path) -> None:
    """Where something else fails meanwhile, the calls that wait are left out."""

    def slowly(number: int) -> None:
        time.sleep(0.1)
        (tmp_path / str(number)).touch()

    with pytest.raises(LookupError), in_forks(slowly, range(100), 2):
        raise LookupError
    assert len(list(tmp_path.iterdir())) < 50


class Endless(nn.Module):
    """Runs until it is stopped, and touches a file at each step."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.step = file, nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take steps for a while."""
        end = time.monotonic() + 20
        while time.monotonic() < end and not self.file.with_suffix(".stop").exists():
            self.step(x)
            self.file.touch()
            time.sleep(0.01)
        return x


def test_a_fork_pauses_within_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measurement gets the device to itself long before a slow network has run, and nothing runs meanwhile."""
    monkeypatch.setenv(LOCKS, str(tmp_path))
    file = tmp_path / "step"
    network = Endless(file)

    def run(number: int) -> None:
        network(torch.zeros(1))

    with in_forks(run, [0], 2) as found:
        while not file.exists():
            time.sleep(0.01)
        with quiet(5.0) as paused:
            assert paused
            file.unlink()
            time.sleep(0.2)
            assert not file.exists()
        (tmp_path / "step.stop").touch()
        assert list(found) == [None]
