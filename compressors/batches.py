"""A task's training data as one endless stream of batches, in an order that a seed decides."""

from __future__ import annotations

import copy
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from ..errors import StudyError, blaming
from ..studies.random_states import seeded
from ..studies.task import Batch, Loader

COUNTED_S = 600.0
"""Seconds in which a pass must end whose batches are counted, as its loader does not tell how many they are."""

_COUNTS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def endless(train: Loader) -> Generator[Batch]:
    """Yield the batches of one pass after another, in an order drawn from the current random states.

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
    """Return the number of batches in one pass; a loader without a length is counted once per process.

    A `DataLoader` of an `IterableDataset` has a length only if that has one. No random state is changed.

    Raises:
        StudyError: it does not tell, and a pass does not end.
    """
    with suppress(Exception):  # a length of the user's own may be none, and raise anything
        if len(train) > 0:  # type: ignore[arg-type]
            return len(train)  # type: ignore[arg-type]
    with suppress(TypeError, KeyError):  # some cannot be remembered
        return _COUNTS[train]
    count, ends = 0, time.monotonic() + COUNTED_S
    with seeded(0), blaming("train"):
        for count, _ in enumerate(train, start=1):
            if time.monotonic() > ends:
                raise StudyError(
                    f"a pass over `train` must end, or its loader must have a length; it had given {count:,} batches "
                    f"after {COUNTED_S:g} s. Give it a `__len__`, the batches of what is to be one pass"
                )
    with suppress(TypeError):
        _COUNTS[train] = count
    return count


def _reordered(train: Loader) -> Iterable[Batch]:
    """Return an iterable of one pass's batches, in a random order unless the data define their own."""
    if isinstance(train, Sequence):
        return (train[i] for i in torch.randperm(len(train)).tolist())
    if not isinstance(train, DataLoader) or not isinstance(_sampler(train), SequentialSampler):
        return train
    if type(train.batch_sampler) not in (BatchSampler, type(None)):  # the user's own decides on the order
        return train
    name = "sampler" if train.batch_sampler is None else "batch_sampler"
    chosen = list(getattr(train, name))
    other = copy.copy(train)  # a loader lets nobody set its sampler
    object.__setattr__(other, name, [chosen[i] for i in torch.randperm(len(chosen)).tolist()])
    object.__setattr__(other, "_iterator", None)
    return other


def _sampler(train: Loader) -> Any:
    """Return the sampler that orders a DataLoader's examples; None for other loaders."""
    return getattr(getattr(train, "batch_sampler", None), "sampler", getattr(train, "sampler", None))


def _seed(train: Loader) -> None:
    """Seed a loader's own random generators from torch's."""
    seed = int(torch.randint(2**62, ()))
    for generator in (getattr(it, "generator", None) for it in (train, _sampler(train))):
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)
