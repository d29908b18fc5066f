"""Calls the user's code: each call is limited in time, and an error names the line of that code."""

from __future__ import annotations

import ctypes
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from torch import Tensor

from ...errors import AutocompressError, StudyError, in_a_line, place

CALL_S = 120.0
"""Seconds that one call of the user's code may take."""

_T = TypeVar("_T")


class _Late(BaseException):
    """Ends a call that takes too long. An `except Exception` in the user's code does not catch it."""


def called(what: str, function: Callable[[], _T], *, within_s: float | None = None, rule: str = "") -> _T:
    """Call a part of the user's task.

    Args:
        what: the call, as one would write it.
        function: makes the call.
        within_s: seconds that it may take; by default `CALL_S`.
        rule: the rule that it breaks if it raises; by default, that it must run.

    Raises:
        StudyError: it raises, or does not return in time.
    """
    within_s = CALL_S if within_s is None else within_s
    rule = rule or f"`{what}` must run"
    try:
        with _bounded(within_s):
            return function()
    except (KeyboardInterrupt, GeneratorExit, AutocompressError):
        raise
    except _Late as late:
        at = place(late)
        raise StudyError(
            f"`{what}` must return within {within_s:g} s; it has not" + (f" ({at})" if at else "") + ". "
            "See what it waits for, or give a part of the data"
        ) from None
    except BaseException as error:  # the user's code may raise anything, such as SystemExit
        raised = in_a_line(error)
        traceback.clear_frames(error.__traceback__)  # which would keep a loader's processes alive
        raise StudyError(f"{rule}; it raised {raised}. Try that call by itself, and fix it") from error


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Raise `_Late` after some seconds, as soon as Python can be interrupted."""
    main = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    with (_by_signal if main else _by_thread)(seconds):
        yield


@contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    """Interrupt by a signal, which also ends waits; an earlier timer continues afterwards."""

    def late(number: int, frame: object) -> None:
        raise _Late

    started, handler = time.monotonic(), signal.signal(signal.SIGALRM, late)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again and again: a bare `except` may hold it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - started)), interval)


@contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    """Interrupt a thread other than the main one, which gets no signals."""
    raises = ctypes.pythonapi.PyThreadState_SetAsyncExc
    thread = ctypes.c_ulong(threading.get_ident())
    timer = threading.Timer(seconds, lambda: raises(thread, ctypes.py_object(_Late)))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def kind(value: object) -> str:
    """Return a value's type in words; for a tensor its shape and type."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {dtype(value)}"
    return f"a {type(value).__name__}"


def dtype(tensor: Tensor) -> str:
    """Return the name of a tensor's type."""
    return str(tensor.dtype).removeprefix("torch.")


def look(tensors: Sequence[Tensor]) -> str:
    """Return the shapes and types of tensors, batch first.

    >>> import torch
    >>> look([torch.zeros(5, 3, 8), torch.zeros(5).long()])
    '(N, 3, 8) float32, (N,) int64'
    """
    return ", ".join(f"{_batch_first(tensor)} {dtype(tensor)}" for tensor in tensors)


def _batch_first(tensor: Tensor) -> str:
    sizes = ["N", *map(str, tensor.shape[1:])]
    return f"({', '.join(sizes)})" if len(sizes) > 1 else "(N,)"
