"""Seeds and restores the random states of torch, NumPy and Python, which loaders, networks and metrics use."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the random states at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def seeded(seed: int | Sequence[int]) -> Iterator[None]:
    """Draw from seeded random states, and restore the former ones at the end.

    Args:
        seed: a number, or several; sequences that differ in one number give independent states.
    """
    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    with random_states_kept():
        torch.manual_seed(number)
        np.random.seed(number)
        random.seed(number)
        yield


class OwnRandomStates:
    """Random states that are in force in `entered` only, and go on there from where they were left.

    Args:
        seed: see `seeded`.
    """

    def __init__(self, seed: int | Sequence[int]) -> None:
        with seeded(seed):
            self._states = _states()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Draw from these states, and restore the former ones at the end."""
        with random_states_kept():
            python, numpy, torchs = self._states
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_rng_state(torchs)
            yield
            self._states = _states()


def _states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()
