"""Bounds on the tracing of dependencies, which for some networks would eat all memory and never end.

Channels are followed by their indices from operation to operation, and widths are looked for along every way through
the network. Where a network rolls, cuts and joins what it reshapes, the ways multiply. Steps are counted as they are
taken, so that the bound is met after the same work on every machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch_pruning.dependency.graph as library
from torch_pruning.dependency import shape_infer

STEPS = 1_000_000
"""Steps that may be taken for one group; networks that can be pruned need at most a third."""

LIST = 262_144
"""Indices that one operation may hand to the next."""


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
def bounded(steps: int | None = None) -> Iterator[None]:
    """Bound the tracing of dependencies for a while; by default to `STEPS`.

    Raises:
        TooLargeError: more steps would have to be taken.

    """
    budget, taken = STEPS if steps is None else steps, 0
    plain: Any = library.Group

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken > budget:
                raise TooLargeError(budget)
            return function(*arguments, **named)

        return call

    class Counted(plain):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            super().__init__()
            self.known: set[tuple[Any, Any, tuple[Any, ...]]] = set()

        def add_dep(self, dep: Any, idxs: Sequence[Any]) -> None:
            nonlocal taken
            taken += len(idxs)
            if taken > budget or len(idxs) > LIST:
                raise TooLargeError(budget, self)
            self.known.add((dep.target, dep.handler, tuple(idxs)))
            super().add_dep(dep, idxs)

        def has_pruning_op(self, dep: Any, idxs: Sequence[Any]) -> bool:  # the library's own compares with all
            return (dep.target, dep.handler, tuple(idxs)) in self.known

    recursive = ("infer_in_channels_recursively", "infer_out_channels_recursively")
    counting = {name: counted(getattr(shape_infer, name)) for name in recursive}
    with patch.object(library, "Group", Counted), patch.multiple(shape_infer, **counting):
        yield
