"""Calls at the same time, such as measurements on several devices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from ..device_lock import off_the_floor

T = TypeVar("T")


Answers = SimpleQueue[tuple[int, Any, BaseException | None]]
"""Numbers of calls, with their results or errors, as they come."""


def begun(call: Callable[[], T]) -> Callable[[], T]:
    """Begin a call in a thread, and return a function that waits for its result; an interrupt can end the wait.

    The function is called once. It raises the error of the call, if that fails.
    """
    answers = Answers()
    _begin(0, call, answers)
    return lambda: cast(T, _next(answers)[1])


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run calls at the same time, each waiting for its own device, and return their results.

    It waits in Python, so that an interrupt can end the wait at any moment.

    Raises:
        BaseException: the error of the first call that fails.
    """
    if len(calls) == 1:
        return [calls[0]()]
    answers = Answers()
    with off_the_floor():
        for number, call in enumerate(calls):
            _begin(number, call, answers)
        found = dict(_next(answers) for _ in calls)
    return [found[number] for number in range(len(calls))]


def _begin(number: int, call: Callable[[], object], answers: Answers) -> None:
    def answer() -> None:
        try:
            answers.put((number, call(), None))
        except BaseException as error:
            answers.put((number, None, error))

    threading.Thread(target=answer, name="aside", daemon=True).start()


def _next(answers: Answers) -> tuple[int, Any]:
    """Wait for the next answer, and return the number of its call and the result; raise its error."""
    number, value, error = answers.get()
    if error is not None:
        raise error
    return number, value
