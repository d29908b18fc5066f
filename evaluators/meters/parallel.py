"""Calls at the same time, such as measurements on several devices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from ..device_lock import off_the_floor

T = TypeVar("T")


def begun(call: Callable[[], T]) -> Callable[[], T]:
    """Begin a call in a thread, and return a function that waits for its result; an interrupt can end the wait.

    The function is called once. It raises the error of the call, if that fails.
    """
    answers: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def answer() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    def result() -> T:
        value, error = answers.get()
        if error is not None:
            raise error
        return cast(T, value)

    threading.Thread(target=answer, name="aside", daemon=True).start()
    return result


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Run calls at the same time, each waiting for its own device, and return their results.

    It waits in Python, so that an interrupt can end the wait at any moment.

    Raises:
        BaseException: the error of the first call that fails.
    """
    if len(calls) == 1:
        return [calls[0]()]
    answers: SimpleQueue[tuple[int, T | None, BaseException | None]] = SimpleQueue()

    def answer(number: int) -> None:
        try:
            answers.put((number, calls[number](), None))
        except BaseException as error:
            answers.put((number, None, error))

    with off_the_floor():
        for number in range(len(calls)):
            threading.Thread(target=answer, args=(number,), name="device", daemon=True).start()
        found: dict[int, Any] = {}
        while len(found) < len(calls):
            number, value, error = answers.get()
            if error is not None:
                raise error
            found[number] = value
    return [found[number] for number in range(len(calls))]
