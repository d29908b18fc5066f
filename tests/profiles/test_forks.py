"""Calls in several processes at a time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from autocompress.profiles.forks import in_forks

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = os.getpid()


def where(number: int) -> tuple[int, bool]:
    """Return a number's square, and whether it was computed in this process."""
    return number**2, os.getpid() == HERE


def fragile(number: int) -> tuple[int, bool]:
    """Do the same, but kill any other process for one of the numbers."""
    if number == 3 and os.getpid() != HERE:
        os.kill(os.getpid(), signal.SIGKILL)
    return where(number)


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_answers_come_in_order(processes: int) -> None:
    """However many processes share the calls, the answers are the same, and one process is this one."""
    answers = list(in_forks(where, range(7), processes))
    assert [square for square, _ in answers] == [number**2 for number in range(7)]
    assert {here for _, here in answers} == {processes == 1}


def test_what_a_killed_fork_has_not_answered_is_computed_here() -> None:
    """No answer is lost, and none comes twice."""
    answers = list(in_forks(fragile, range(9), 2))
    assert [square for square, _ in answers] == [number**2 for number in range(9)]
    assert answers[3][1]
    assert not answers[0][1]


def test_arguments_are_taken_when_they_are_needed() -> None:
    """Where the arguments end early, for lack of time, little was begun that nobody has asked for."""
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    answers = in_forks(where, numbers(), 2)
    assert next(answers) == (0, False)
    assert len(taken) <= 4
    answers.close()
