"""Calls in several processes at a time: forks of this one, which share its memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from ..evaluators.device_lock import pause, training
from ..evaluators.subprocess_protocol import end_with

A = TypeVar("A")
B = TypeVar("B")

_inherited: Callable[[Any], Any]
"""What a fork calls; it is there before it begins, so that it need not be pickled."""


@contextmanager
def in_forks(call: Callable[[A], B], arguments: Sequence[A], processes: int) -> Iterator[Iterator[B]]:
    """Begin calls in forks, which end with the context; it gives the results in the order of the arguments.

    The results do not depend on the number of processes. Where the system cannot fork, or with one process, each is
    computed in this one when it is wanted, as is what a fork that was killed has not answered. In a fork PyTorch has
    one thread, and gives way to measurements between calls, and between the modules of a network.

    Args:
        call: need not be picklable, but works on the CPU.
        arguments: small and picklable; the results must be, too.
        processes: most forks.
    """
    if processes < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield map(call, arguments)
        return
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(call, os.getpid()))
    answers: list[Future[B]] = []
    try:
        with suppress(BrokenProcessPool), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, as this process has threads
            for argument in arguments:
                answers.append(pool.submit(_answer, argument))
        yield (_result(call, *each) for each in zip_longest(arguments, answers))
    finally:
        pool.shutdown(cancel_futures=True)


def _result(call: Callable[[A], B], argument: A, answer: Future[B] | None) -> B:
    """Return a fork's answer; compute it here where the fork was killed before."""
    with suppress(BrokenProcessPool):
        if answer is not None:
            return answer.result()
    return call(argument)


def _begin(call: Callable[[Any], Any], parent: int) -> None:
    global _inherited  # of a fork, which serves one call alone
    _inherited = call
    end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # its parent decides
    torch.set_num_threads(1)
    register_module_forward_pre_hook(lambda module, inputs: pause())


def _answer(argument: Any) -> Any:
    with training():
        return _inherited(argument)
