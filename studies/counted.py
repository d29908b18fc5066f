"""Counts the examples behind an accuracy, to judge how much of it is chance."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from .task import Loader, Task


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
        return sum(len(batch["labels"] if isinstance(batch, Mapping) else batch[1]) for batch in loader)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or loader.drop_last:
        return None
    if type(loader.batch_sampler) is not BatchSampler:  # whose batches may be of any examples, or be items
        return None
    try:
        return len(loader.sampler)  # type: ignore[arg-type]
    except Exception:  # the user's own may have no length
        return None
