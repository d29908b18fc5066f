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
from ..studies.random_states import OwnRandomStates, seeded
from ..studies.task import Batch, Loader
from .stream import Stream

COUNTED_S = 600.0
"""Seconds in which a pass must end whose batches are counted, as its loader does not tell how many they are."""

_DATA = 0xDA7A
"""Tells the random numbers of the data from those of a training with the same seed."""

_COUNTS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


class Endless(Iterator[Batch]):
    """The batches of one pass after another, in the orders of a stream.

    A list of batches, and a DataLoader that does not shuffle, give their batches in another order in each pass, since
    a training may be a small part of one. A generator of a DataLoader's own is seeded for each pass, so that the order
    is not a matter of who has drawn from it before. All else comes in the order in which it gives itself. What the
    training draws between two batches changes nothing here.

    Args:
        train: the data.
        stream: the orders; None draws a seed from the current random state when the first batch is asked for.

    Attributes:
        place: names the latest batch; it has the same name whenever it comes again.
        drawn: how many batches have been drawn.

    Raises:
        StudyError: a pass has no batch.

    """

    def __init__(self, train: Loader, stream: Stream | None = None) -> None:
        self.place, self.drawn = "", 0
        self._batches = _placed(train, stream)

    def __next__(self) -> Batch:
        self.place, batch = next(self._batches)
        self.drawn += 1
        return batch

    def close(self) -> None:
        """Let go of the data."""
        self._batches.close()


def _placed(train: Loader, stream: Stream | None) -> Generator[tuple[str, Batch]]:
    """Yield batches with their places in a stream."""
    stream = Stream(seed=int(torch.randint(2**62, ()))) if stream is None else stream
    for number in stream.numbers():
        states, last = OwnRandomStates((stream.seed, _DATA, number)), -1
        with states.entered(), blaming("train"):
            _seed(train)
            batches = iter(_numbered(train))
        while True:
            with states.entered(), blaming("train"):
                found = next(batches, None)
            if found is None:
                break
            last, batch = found
            yield f"item-{last}" if isinstance(train, (list, tuple)) else f"{stream.seed}-{number}-{last}", batch
        if last < 0:
            raise StudyError("`train` must give batches in every pass; it gave none. Give a list or a DataLoader")


def _numbered(train: Loader) -> Iterable[tuple[int, Batch]]:
    """Return one pass's batches: those of a list with their numbers in it, others counted."""
    if isinstance(train, (list, tuple)):
        return ((i, train[i]) for i in torch.randperm(len(train)).tolist())
    return enumerate(_reordered(train))


def one_pass(train: Loader) -> Iterator[Batch]:
    """Return the batches of the first pass of `Endless`."""
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
