"""How operations move channels, where torch-pruning does not know it or gets it wrong.

A channel's position changes where tensors are joined, cut, folded (as in a gated linear unit), turned into pixels or
shuffled. Shapes and settings are read from the operations that autograd recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch_pruning import _helpers as helpers
from torch_pruning import ops

VIEWS = ("View", "UnsafeView", "ReshapeAlias")
"""Operations that keep the order of all numbers."""

Positions = Sequence[int]
"""Where one channel is on the other side of an operation; nothing where it does not get there."""


@dataclass(frozen=True)
class Move:
    """A mapping of channels along an edge of the graph, in torch-pruning's form."""

    to: Callable[[int], Positions]

    def __call__(self, idxs: Sequence[Any]) -> list[Any]:
        """Map channels, each with its root channel."""
        found: dict[int, Any] = {}
        for index in idxs:
            for position in self.to(index.idx):
                found.setdefault(position, helpers._HybridIndex(idx=position, root_idx=index.root_idx))
        return list(found.values())


class Shape(NamedTuple):
    """Input and output sizes of an operation, and the dimension that holds the channels."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    axis: int

    @property
    def channels(self) -> int:
        """How many go in."""
        return self.before[self.axis]


class ChannelMove(NamedTuple):
    """How an operation moves channels: where an input channel goes, and where an output channel comes from."""

    forward: Callable[[int], Positions]
    backward: Callable[[int], Positions]


def signed(number: int) -> int:
    """Return a dimension or index as it was written; autograd records negative ones as unsigned numbers."""
    return number - 2**64 if number >= 2**63 else number


def named(fn: Any, *kinds: str) -> bool:
    """Whether a recorded operation is of one of these kinds."""
    return fn is not None and hasattr(fn, "name") and fn.name().startswith(kinds)


def sizes(fn: Any, output: int = 0) -> tuple[int, ...]:
    """Return the shape of an operation's output."""
    return tuple(fn._input_metadata[output].shape)


def inputs(fn: Any) -> list[tuple[Any, int]]:
    """Return an operation's inputs: operations and the index of their output; parameters are left out."""
    return [(f, i) for f, i in fn.next_functions if f is not None and not named(f, "torch::autograd::Accumulate")]


class Axes:
    """Finds the dimension of an operation's output along which channels lie."""

    def __init__(self) -> None:
        self.known: dict[Any, int | None] = {}

    def __call__(self, fn: Any) -> int | None:
        """Return the dimension; None where it is not clear."""
        way = []
        while fn not in self.known:
            way.append(fn)
            if named(fn, "Convolution"):
                self.known[fn] = 1
            elif named(fn, "Addmm", "Mm", "Embedding", "_OneStep") or not inputs(fn):
                self.known[fn] = len(sizes(fn)) - 1 if inputs(fn) or named(fn, "Embedding") else None
            else:
                fn = inputs(fn)[0][0]
        for later in reversed(way):
            if later not in self.known:
                before, output = inputs(later)[0]
                keeps = shuffled(later, self) is not None
                self.known[later] = 1 if keeps else _axis(later, self.known[before], sizes(before, output))
        return self.known[way[0] if way else fn]


def _axis(fn: Any, axis: int | None, before: tuple[int, ...]) -> int | None:
    """Return the output dimension that an input's dimension becomes."""
    after = sizes(fn)
    if axis is None:
        return None
    if named(fn, "Permute"):
        return [signed(d) % len(after) for d in fn._saved_dims].index(axis)
    if named(fn, "Transpose"):
        ends = signed(fn._saved_dim0) % len(after), signed(fn._saved_dim1) % len(after)
        return ends[1 - ends.index(axis)] if axis in ends else axis
    if len(after) == len(before) and not named(fn, *VIEWS):
        return axis
    if axis == 1 and len(after) > 1 and (after[1] == before[1] or len(after) == 2):
        return 1
    return len(after) - 1 if axis == len(before) - 1 and after and after[-1] == before[-1] else None


def shape(fn: Any, axes: Axes) -> Shape | None:
    """Return an operation's input and output shapes; None if channels and other dimensions look alike."""
    if not hasattr(fn, "next_functions") or not inputs(fn):
        return None
    before, output = inputs(fn)[0]
    axis = axes(before)
    return None if axis is None else Shape(sizes(before, output), sizes(fn), axis)


def shuffled(fn: Any, axes: Axes) -> int | None:
    """Return the number of groups that a channel shuffle has; None for other operations."""
    if named(fn, "ChannelShuffle"):
        return int(fn._saved_groups)
    apart = taken_apart(fn)
    if apart is None:
        return None
    whole, parts = shape(apart, axes), sizes(apart)
    if whole is None or whole.axis != 1 or whole.before != sizes(fn) or parts[1] * parts[2] != whole.channels:
        return None
    return parts[1]


def taken_apart(fn: Any) -> Any:
    """Return the view into groups of channels that a later view merges in another order; None if there is none."""
    if not named(fn, *VIEWS) or not inputs(fn):
        return None
    turned = inputs(fn)[0][0]
    while named(turned, "Clone"):
        turned = inputs(turned)[0][0]
    if not named(turned, "Transpose") or {signed(turned._saved_dim0), signed(turned._saved_dim1)} != {1, 2}:
        return None
    apart = inputs(turned)[0][0]
    return apart if named(apart, *VIEWS) else None


def operation(fn: Any, axes: Axes) -> ChannelMove | None:
    """Return how an operation with one input moves channels; None if they stay in place."""
    groups = shuffled(fn, axes)
    if groups is not None:
        count = math.prod(sizes(fn)[1:2])
        each = count // groups
        return ChannelMove(lambda i: [i % each * groups + i // each], lambda i: [i % groups * each + i // groups])
    of = shape(fn, axes)
    if of is None:
        return None
    if named(fn, "Glu") and of.before[of.axis] != of.after[of.axis]:
        half = of.after[of.axis]
        return ChannelMove(lambda i: [i % half], lambda i: [i, i + half])
    if named(fn, "PixelShuffle"):
        block = fn._saved_upscale_factor**2
        return ChannelMove(lambda i: [i // block], lambda i: range(i * block, (i + 1) * block))
    if named(fn, "PixelUnshuffle"):
        block = fn._saved_downscale_factor**2
        return ChannelMove(lambda i: range(i * block, (i + 1) * block), lambda i: [i // block])
    if named(fn, "Slice") and _cuts(fn, of):
        start, step, stop = slices(fn, of)
        return ChannelMove(
            lambda i: [(i - start) // step] if start <= i < stop and (i - start) % step == 0 else [],
            lambda i: [start + i * step],
        )
    return None


def _cuts(fn: Any, of: Shape) -> bool:
    return signed(fn._saved_dim) % len(of.before) == of.axis


def slices(fn: Any, of: Shape) -> tuple[int, int, int]:
    """Return start, step and end of a slice of channels."""
    start, step = signed(fn._saved_start), fn._saved_step
    start = max(start + of.channels, 0) if start < 0 else start
    return start, step, start + of.after[of.axis] * step


def cut(fn: Any, axes: Axes) -> list[int] | None:
    """Return the sizes of the parts that channels are split into; None for other operations."""
    of = shape(fn, axes) if named(fn, "Split") else None
    if of is None or signed(fn._saved_dim) % len(of.before) != of.axis:
        return None
    return [sizes(fn, part)[of.axis] for part in range(len(fn._input_metadata))]


def teach(graph: Any) -> None:
    """Correct a dependency graph's channel mappings, so that it follows each channel to the right place."""
    axes = Axes()
    nodes = [node for node in graph.module2node.values() if hasattr(node.grad_fn, "next_functions")]
    graph.axes, of = axes, {node.grad_fn: node for node in nodes}
    for node in nodes:
        known = operation(node.grad_fn, axes) if isinstance(node.module, _OPERATIONS) else None
        if known is None:
            continue
        for known_wrong in (node, of.get(taken_apart(node.grad_fn))):
            if known_wrong is not None and known_wrong.type in (ops.OPTYPE.SLICE, ops.OPTYPE.RESHAPE):
                _forget(known_wrong)
        for there, back in _edges(node):
            _put(there, Move(known.forward), first=False)
            _put(back, Move(known.backward), first=True)
    for node in nodes:
        if node.type == ops.OPTYPE.SPLIT:
            _teach_split(node, axes)
        elif node.type == ops.OPTYPE.CONCAT:
            _teach_join(node, axes)
        _teach_parameters(node, axes)


BROADCASTING = ("AddBackward", "SubBackward", "MulBackward", "DivBackward")
"""Operations that line up the last dimensions of what they are given."""

_OPERATIONS = (ops._ElementWiseOp, ops._SliceOp, ops._ReshapeOp, ops._OutputOp)


def _forget(node: Any) -> None:
    """Remove the library's own mapping of an operation permanently."""
    node.type = ops.OPTYPE.ELEMENTWISE
    for other in {*node.inputs, *node.outputs}:
        for dep in (*node.dependencies, *other.dependencies):
            if {dep.source, dep.target} == {node, other}:
                dep.index_mapping[0] = None


def _put(dep: Any, mapping: Any, *, first: bool, slot: int = 0) -> None:
    """Add a mapping to a dependency, before or after the existing ones, replacing one of the library's two."""
    theirs, ours = dep.index_mapping[:2], dep.index_mapping[2:]
    theirs[slot] = None
    dep.index_mapping = [*theirs, mapping, *ours] if first else [*theirs, *ours, mapping]


def _edges(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the dependencies between an operation and each of its inputs in order, in both directions."""
    used: dict[Any, int] = {}
    for before in node.inputs:
        number = used.get(before, 0)
        used[before] = number + 1
        there = [dep for dep in before.dependencies if dep.target is node]
        back = [dep for dep in node.dependencies if dep.target is before]
        if number < min(len(there), len(back)):
            yield there[number], back[number]


def _teach_split(node: Any, axes: Axes) -> None:
    parts = cut(node.grad_fn, axes)
    if parts is None:
        return
    node.module.offsets = None  # else the library puts its own mapping back
    for later in dict.fromkeys(node.outputs):
        taken = [(f is node.grad_fn, part) for f, part in _tracked(later)]
        for (mine, part), (there, back) in zip(taken, _edges(later), strict=False):
            if mine:
                start, size = sum(parts[:part]), parts[part]
                _put(there, Move(_within(start, size)), first=True)
                _put(back, Move(_shifted(start)), first=False)


def _within(start: int, size: int) -> Callable[[int], Positions]:
    return lambda i: [i - start] if start <= i < start + size else []


def _shifted(start: int) -> Callable[[int], Positions]:
    return lambda i: [start + i]


def _tracked(node: Any) -> list[tuple[Any, int]]:
    return inputs(node.grad_fn) if hasattr(node.grad_fn, "next_functions") else []


def _teach_parameters(node: Any, axes: Axes) -> None:
    """Find the dimension of parameters that holds an operation's channels; parameters without it stay."""
    axis = axes(node.grad_fn) if inputs(node.grad_fn) else None
    if axis is None or not named(node.grad_fn, *BROADCASTING):
        return
    after = sizes(node.grad_fn)
    for before, (there, back) in zip(node.inputs, _edges(node), strict=False):
        if before.type != ops.OPTYPE.PARAMETER:
            continue
        dim = axis - len(after) + before.module.dim()
        if dim >= 0 and before.module.shape[dim] == after[axis]:
            before.pruning_dim = dim
        else:
            _put(there, Move(lambda _: []), first=False)
            _put(back, Move(lambda _: []), first=True)


@dataclass(frozen=True)
class Join:
    """A mapping of the channels of one concatenated tensor; it accounts for what the others lose."""

    module: Any
    part: int
    back: bool

    def __call__(self, idxs: Sequence[Any]) -> list[Any]:
        """Map channels, each with its root channel."""
        parts = self.module.concat_sizes
        start = sum(parts[: self.part])
        return Move(_within(start, parts[self.part]) if self.back else _shifted(start))(idxs)


def _teach_join(node: Any, axes: Axes) -> None:
    """Follow concatenations along channels, including inputs without gradients, such as the network's own."""
    fn = node.grad_fn
    if not node.enable_index_mapping or len(node.inputs) != len(inputs(fn)):
        return
    axis = next((a for a in (axes(f) for f, _ in inputs(fn)) if a is not None), None)
    after = sizes(fn)
    if axis is None or signed(fn._saved_dim) % len(after) != axis:
        return
    given = [None if f is None else sizes(f, i)[axis] for f, i in fn.next_functions]
    if given.count(None) > 1 or len(inputs(fn)) + given.count(None) != len(given):
        return
    edges = list(_edges(node))
    places = [place for place, size in enumerate(given) if size is not None]
    if len(edges) != len(places):
        return
    rest = after[axis] - sum(size or 0 for size in given)
    node.module.concat_sizes = [rest if size is None else size for size in given]
    node.enable_index_mapping = False
    for place, (there, back) in zip(places, edges, strict=True):
        _put(there, Join(node.module, place, back=False), first=False, slot=1)
        _put(back, Join(node.module, place, back=True), first=True, slot=1)
