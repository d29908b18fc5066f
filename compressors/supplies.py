"""How many examples are used without training: for statistics, ranges and gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..studies.task import Batch, have_a_batch
from .modules import Inputs, run, work

STATISTICS, RANGES, GRADIENTS = 1024, 256, 256
"""Examples for the statistics of batch norms, for the ranges of activations, and for gradients."""

MACS, BYTES = 2e11, 2**28
"""Multiply-accumulates, about four seconds of a core, and bytes of inputs, above which there are fewer examples."""

FEWEST = 4
"""Batches that are taken in any case."""

JOINED = 32
"""Examples of a batch that smaller ones are put together to: in a batch of one a batch norm sees no variance."""

DIVIDED = 16
"""Examples of a batch that larger ones are divided into, since each gives a gradient."""

_Any = TypeVar("_Any")


def affordable(model: nn.Module, examples: Inputs) -> int:
    """Return the number of examples that a network can run on without delaying a trial.

    Its size decides, not a clock, so that the result is the same each time.
    """
    macs = sum(work(model, examples).values())
    size = sum(x[0].numel() * x.element_size() for x in examples)
    return int(min(MACS // max(1, macs), BYTES // max(1, size)))


def enough(batches: Iterable[tuple[_Any, int]], examples: int) -> list[_Any]:
    """Return batches until they hold `examples` examples: at least a few, and at most all.

    Args:
        batches: each with the number of its examples.
        examples: how many are wanted.

    >>> enough([("a", 100), ("b", 100), ("c", 50), ("d", 3), ("e", 3)], 200)
    ['a', 'b', 'c', 'd']
    """
    found: list[_Any] = []
    held = 0
    for batch, size in batches:
        found.append(batch)
        held += size
        if held >= examples and len(found) >= FEWEST:
            break
    return found


def first_examples(batches: Sequence[Inputs], wanted: int) -> list[Inputs]:
    """Return as many batches as hold the examples wanted, at most all.

    >>> batches = [(torch.ones(50),)] * 4
    >>> len(first_examples(batches, 60))
    2
    """
    held = list(itertools.accumulate(len(batch[0]) for batch in batches))
    return [batch for batch, size in zip(batches, held, strict=True) if size - len(batch[0]) < wanted]


def joined(model: nn.Module, batches: list[Inputs]) -> list[Inputs]:
    """Concatenate small batches; leave them if their shapes differ or the network has a fixed batch."""
    size = len(batches[0][0])
    fit = {tuple(x.shape[1:] for x in batch) for batch in batches}
    if size >= JOINED or len(fit) > 1 or not all(map(have_a_batch, batches)):
        return batches
    each, rest = -(-JOINED // size), iter(batches)
    found = [tuple(map(torch.cat, zip(*some, strict=True))) for some in iter(lambda: list(islice(rest, each)), [])]
    try:
        run(model, found[0])
    except Exception:  # a forward that knows one size of batch
        return batches
    return found


def divided(batch: Batch) -> list[Batch]:
    """Split a batch into smaller ones; leave it if its tensors do not share a first dimension."""
    sizes = set(_sizes(batch))
    if len(sizes) != 1 or None in sizes:
        return [batch]
    return [_part(batch, slice(i, i + DIVIDED)) for i in range(0, sizes.pop() or 0, DIVIDED)]


def _sizes(batch: Batch) -> Iterator[int | None]:
    """Yield the first dimension of each tensor in a batch; None for anything without one."""
    if type(batch) in (tuple, list, dict):
        for value in batch.values() if isinstance(batch, dict) else batch:
            yield from _sizes(value)
    else:
        yield len(batch) if isinstance(batch, Tensor) and batch.dim() else None


def _part(batch: Batch, rows: slice) -> Batch:
    if isinstance(batch, Tensor):
        return batch[rows]
    if isinstance(batch, dict):
        return {name: _part(value, rows) for name, value in batch.items()}
    return type(batch)(_part(value, rows) for value in batch)
