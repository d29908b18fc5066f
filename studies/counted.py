"""Counts the examples behind an accuracy, to judge how much of it is chance, and chooses a part of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import accumulate, chain
from typing import Any, NamedTuple

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler

from .task import Loader, Task

PART = 1000
"""Examples of the part of the validation data that tells whether a candidate is worth a training: at least so many."""

BATCHES = 4
"""Batches of it, at least: data may be sorted."""


def counted(task: Task) -> dict[str, int]:
    """Return the number of examples of each split that a task is scored on.

    It is empty where the metric is the user's own, which need not be a share of examples; a split is left out whose
    loader does not tell.
    """
    if not task.counts_labels:
        return {}
    splits = {"validation": task.validation, "test": task.test}
    counts = {name: examples(loader) for name, loader in splits.items() if loader is not None}
    return {name: count for name, count in counts.items() if count is not None}


def examples(loader: Loader) -> int | None:
    """Return the number of a loader's examples without loading them; None if it is unknown.

    >>> import torch
    >>> examples([(torch.zeros(3, 1), torch.zeros(3)), (torch.zeros(2, 1), torch.zeros(2))])
    5
    >>> examples(iter([]))
    """
    if isinstance(loader, list | tuple):
        return sum(map(_size, loader))
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.drop_last:
        return None
    if type(loader.batch_sampler) is not BatchSampler:  # whose batches may be of any examples, or be items
        return None
    try:
        return len(loader.sampler)  # type: ignore[arg-type]
    except Exception:  # the user's own may have no length
        return None


class Part(NamedTuple):
    """Some batches of a loader.

    Attributes:
        batches: gives them.
        places: the positions of their examples among all.
    """

    batches: Loader
    places: tuple[int, ...]


def part_of_validation(task: Task) -> Part | None:
    """Return batches spread evenly over a task's validation data; None where a part is not worth it or not possible.

    A metric of the user's own need not be a mean over the batches that it is given.

    >>> import torch
    >>> batch = torch.zeros(500, 1), torch.zeros(500)
    >>> part = part_of_validation(Task(torch.nn.Identity(), batch[0][:1], [batch], [batch] * 20))
    >>> len(part.batches), part.places[499:501]
    (4, (499, 2500))
    >>> part_of_validation(Task(torch.nn.Identity(), batch[0][:1], [batch], [batch] * 3))
    """
    loader = task.validation
    count = examples(loader) if task.counts_labels else None
    if count is None:
        return None
    if isinstance(loader, list | tuple):
        every = _every(count, len(loader))
        if every < 2:
            return None
        ends = accumulate(map(_size, loader))
        every_place = [range(end - _size(batch), end) for end, batch in zip(ends, loader, strict=True)]
        return Part(loader[::every], tuple(chain(*every_place[::every])))
    assert isinstance(loader, DataLoader)
    every = _every(count, len(loader))
    if every < 2 or loader.batch_sampler is None or not isinstance(loader.sampler, SequentialSampler):
        return None
    other, batches = copy.copy(loader), list(loader.batch_sampler)[::every]
    object.__setattr__(other, "batch_sampler", batches)  # a loader lets nobody set its sampler
    object.__setattr__(other, "_iterator", None)
    return Part(other, tuple(chain(*batches)))


def _size(batch: Any) -> int:
    return len(batch["labels"] if isinstance(batch, Mapping) else batch[1])


def _every(count: int, batches: int) -> int:
    """Return which of a loader's batches are a part, such as every fifth."""
    return min(count // PART, batches // BATCHES)
