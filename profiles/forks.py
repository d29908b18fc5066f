"""Calls in several processes at a time: forks of this one, which share its memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from ..evaluators.device_lock import training
from ..evaluators.subprocess_protocol import end_with

A = TypeVar("A")
B = TypeVar("B")

_inherited: Callable[[Any], Any]
"""What a fork calls; it is there before it begins, so that it need not be pickled."""


def in_forks(call: Callable[[A], B], arguments: Iterable[A], processes: int) -> Generator[B, None, None]:
    """Yield the result for each argument, in order; the results do not depend on the number of processes.

    Where the system cannot fork, or with one process, everything is called in this one, as is what a fork that was
    killed has not answered. Arguments are taken from their iterator only when a process will soon be free. In a fork
    PyTorch has one thread, and gives way to measurements between two calls.

    Args:
        call: need not be picklable, but works on the CPU.
        arguments: small and picklable; the results must be, too.
        processes: most forks.
    """
    waiting, ahead = iter(arguments), deque[A]()
    if processes > 1 and "fork" in multiprocessing.get_all_start_methods():
        answers = deque[Future[B]]()
        context = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(call, os.getpid()))
        try:
            for argument in waiting:
                ahead.append(argument)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, as this process has threads
                    answers.append(pool.submit(_answer, argument))
                if len(ahead) > processes:
                    yield answers.popleft().result()
                    ahead.popleft()
            while ahead:
                yield answers.popleft().result()
                ahead.popleft()
        except BrokenProcessPool:
            pass
        finally:
            pool.shutdown(cancel_futures=True)
    for argument in (*ahead, *waiting):
        yield call(argument)


def _begin(call: Callable[[Any], Any], parent: int) -> None:
    global _inherited  # of a fork, which serves one call alone
    _inherited = call
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent decides
    torch.set_num_threads(1)


def _answer(argument: Any) -> Any:
    with training():
        return _inherited(argument)
