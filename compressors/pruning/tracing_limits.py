"""Bounds the tracing of dependencies, which for some networks would exhaust memory and never end.

Channels are followed by their indices from operation to operation, and widths are looked for along every way through
the network. Where a network rolls, cuts and joins what it reshapes, the ways multiply. Steps are counted as they are
taken, so that the bound is met after the same work on every machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch_pruning.dependency.graph as library
from torch_pruning.dependency import MAX_RECURSION_DEPTH, index_mapping, shape_infer

STEPS = 1_000_000
"""Steps that may be taken for one group; networks that can be pruned need at most a third."""


class TooLargeError(RuntimeError):
    """The dependencies of a network cannot be followed within the bounds.

    Args:
        steps: how many were taken.
        so_far: the group as far as it was followed; None where the whole network is at fault.

    """

    def __init__(self, steps: int, so_far: Any = None) -> None:
        super().__init__(f"they are not followed to their ends within {steps:,} steps")
        self.so_far = so_far


@contextmanager
def bounded(steps: int | None = None) -> Iterator[list[Any]]:
    """Bound the tracing of dependencies inside the context, by default to `STEPS`; yield a list of the traced groups.

    The first is the one asked for as it was followed, before what belongs to one layer is merged.

    Raises:
        TooLargeError: more steps would have to be taken.

    """
    budget, taken = STEPS if steps is None else steps, 0
    plain: Any = library.Group
    spread = index_mapping._FlattenIndexMapping.__call__
    groups: list[Any] = []

    def take(steps: int) -> None:
        nonlocal taken
        taken += steps
        if taken > budget:
            raise TooLargeError(budget, groups[0] if groups else None)

    def counted(function: Callable[..., int | None]) -> Callable[..., int | None]:
        known: dict[Any, int | None] = {}  # the library's own looks again, along every way that leads to a node

        def infer(graph: Any, node: Any, recursive_depth: list[int]) -> int | None:
            if node in known:
                return known[node]
            take(1)
            width = function(graph, node, recursive_depth)
            width = width if width and width > 0 else None  # the library divides by it
            if recursive_depth[0] <= MAX_RECURSION_DEPTH:
                known[node] = width
            return width

        return infer

    def counted_spread(mapping: Any, idxs: Sequence[Any]) -> Any:
        take(len(idxs) * (1 if mapping.reverse else mapping._stride))
        return spread(mapping, idxs)

    class Counted(plain):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            super().__init__()
            self.known: set[tuple[Any, Any, tuple[Any, ...]]] = set()
            groups.append(self)

        def add_dep(self, dep: Any, idxs: Sequence[Any]) -> None:
            take(len(idxs))
            self.known.add((dep.target, dep.handler, tuple(idxs)))
            super().add_dep(dep, idxs)

        def has_pruning_op(self, dep: Any, idxs: Sequence[Any]) -> bool:  # the library's own compares with all
            return (dep.target, dep.handler, tuple(idxs)) in self.known

    recursive = ("infer_in_channels_recursively", "infer_out_channels_recursively")
    counting: dict[str, Any] = {name: counted(getattr(shape_infer, name)) for name in recursive}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the library cannot follow shows when the pruned network is run
        with (
            patch.object(library, "Group", Counted),
            patch.object(index_mapping._FlattenIndexMapping, "__call__", counted_spread),
            patch.multiple(shape_infer, **counting),
        ):
            yield groups
