"""A task's training data as a training sees them: one endless stream, in an order that a seed decides."""

from __future__ import annotations

import copy
import random
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, SequentialSampler

from ..errors import StudyError, blaming
from ..studies.task import Batch, Loader


@contextmanager
def seeded(seed: int | Sequence[int]) -> Iterator[None]:
    """Draw from other random states for a while: those of torch, NumPy and Python, which loaders draw from.

    Args:
        seed: a number, or several; two that differ in any of them have nothing in common.
    """
    seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def endless(train: Loader) -> Generator[Batch]:
    """Yield the batches of one pass after the other, in an order drawn from the random states of the moment.

    A list of batches, and a DataLoader that does not shuffle, give their batches in another order in each pass, since
    a training may be a small part of one. A generator of a DataLoader's own is seeded at the start, so that the order
    is not a matter of who has drawn from it before. All else comes in the order in which it gives itself.

    Raises:
        StudyError: a pass has no batch.
    """
    _seed(train)
    with blaming("train"):
        while True:
            empty = True
            for batch in _reordered(train):
                empty = False
                yield batch
            if empty:
                raise StudyError("`train` must give batches in every pass; it gave none. Give a list or a DataLoader")


def one_pass(train: Loader) -> Iterator[Batch]:
    """Return the batches of the first pass of `endless`."""
    _seed(train)
    return iter(_reordered(train))


def batches_in(train: Loader) -> int:
    """Return the batches of one pass."""
    loader: Any = train
    return len(loader) if hasattr(loader, "__len__") else sum(1 for _ in loader)


def _reordered(train: Loader) -> Iterable[Batch]:
    """Return what gives the batches of one pass, in an order that is drawn where the data have none of their own."""
    if isinstance(train, Sequence):
        return (train[i] for i in torch.randperm(len(train)).tolist())
    if not isinstance(train, DataLoader) or not isinstance(_sampler(train), SequentialSampler):
        return train
    name = "sampler" if train.batch_sampler is None else "batch_sampler"
    chosen = list(getattr(train, name))
    other = copy.copy(train)  # a loader lets nobody set its sampler
    object.__setattr__(other, name, [chosen[i] for i in torch.randperm(len(chosen)).tolist()])
    object.__setattr__(other, "_iterator", None)
    return other


def _sampler(train: Loader) -> Any:
    """Return what decides on the order of a DataLoader's examples; None for all else."""
    return getattr(getattr(train, "batch_sampler", None), "sampler", getattr(train, "sampler", None))


def _seed(train: Loader) -> None:
    """Seed the random states that a loader has for itself from torch's."""
    seed = int(torch.randint(2**62, ()))
    for generator in (getattr(it, "generator", None) for it in (train, _sampler(train))):
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
