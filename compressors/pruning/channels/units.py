"""Which channels of a group must go together, and in what multiples, as the layers behind them require.

Channels that a gated linear unit multiplies, that become the pixels of one channel or that a shuffle interleaves go as
one: a unit. A group norm, a grouped convolution and a split find their parts by counting: of each part the same
share of units must go, so that the rest is still counted right.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_pruning import ops

from ....errors import InfeasibleError
from ...modules import LAYERS
from .moves import VIEWS, Shape, cut, named, shape, shuffled, sizes, slices

DIVIDING = ("NativeGroupNorm", "Split", "Slice", "ChannelShuffle", *VIEWS)
"""Operations that may want certain numbers of channels."""


@dataclass(frozen=True)
class Units:
    """How the channels of a layer may be removed.

    Attributes:
        of: for each channel the unit it belongs to.
        parts: for each unit the part it is counted in.

    """

    of: Sequence[int]
    parts: Sequence[int]

    @property
    def steps(self) -> int:
        """The number of equal shares that all parts divide into; whole shares are removed."""
        return math.gcd(*Counter(self.parts).values())

    @property
    def granularity(self) -> int:
        """The smallest number of channels that can be removed."""
        return len(self.of) // self.steps

    def least_important(self, scores: Tensor, width: int) -> list[int]:
        """Return the channels to remove so that about ``width`` stay, sorted: the lowest scores of each part.

        Args:
            scores: how important each channel is, shape (channels,); a unit is worth the sum of its channels.
            width: how many are to stay; rounded to the granularity, of which at least one stays.

        """
        owners = torch.tensor(self.of, device=scores.device)
        sums = torch.zeros(len(self.parts), dtype=scores.dtype, device=scores.device).index_add(0, owners, scores)
        share = self.steps - max(1, round(width / self.granularity))
        goes = {part: count // self.steps * share for part, count in Counter(self.parts).items()}
        gone = set()
        for unit in sums.argsort(stable=True).tolist():
            if goes[self.parts[unit]] > 0:
                goes[self.parts[unit]] -= 1
                gone.add(unit)
        return [channel for channel, unit in enumerate(self.of) if unit in gone]


class Wish(NamedTuple):
    """A constraint of a layer or operation on the channels that it reads or makes.

    Attributes:
        what: the layer or operation in words.
        channels: how many it counts.
        size: of its parts, which must lose the same share each; 0 where it has none.
        together: its channels that go as one.

    """

    what: str
    channels: int
    size: int = 0
    together: Sequence[Sequence[int]] = ()


def units_of(graph: Any, root: nn.Module, followed: Any) -> Units:
    """Return how the output channels of a layer may be removed.

    Args:
        graph: the dependencies of a network; see `dependency_groups.dependency_graph`.
        root: the layer.
        followed: the group of all its channels as it was followed, before what belongs to one layer was merged.

    Raises:
        InfeasibleError: something counts its channels together with others, or in unequal parts.

    """
    union = list(range(graph.get_out_channels(root)))

    def find(channel: int) -> int:
        while union[channel] != channel:
            union[channel] = channel = union[union[channel]]
        return channel

    parts: list[tuple[int, Mapping[int, set[int]]]] = []
    for node, out, at in _reached(graph, followed):
        together: Iterable[set[int]] = ()
        wish = _wish(graph, node, out=out)
        if node.module is root and out:
            if max(at) >= len(union):
                raise InfeasibleError("its channels cannot be followed through the network", rung="build")
            together = ({position, *channels} for position, channels in at.items())
        if wish is not None:
            if len(at) != wish.channels:
                raise InfeasibleError(f"{wish.what} counts its channels with those of other layers", rung="build")
            together = [set().union(*(at[i] for i in some)) for some in wish.together] or together
            parts += [(wish.size, at)] if wish.size else []
        for one in together:
            ends = sorted({find(channel) for channel in one})
            for end in ends:
                union[end] = ends[0]
    owners = [find(channel) for channel in range(len(union))]
    labels: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for number, (size, at) in enumerate(parts):
        for position, channels in at.items():
            for channel in channels:
                labels[owners[channel]].add((number, position // size))
    sizes = Counter(owners)
    kinds = {owner: (size, *sorted(labels[owner])) for owner, size in sizes.items()}
    return Units(_numbered(owners), _numbered(kinds.values()))


def _numbered(values: Iterable[Hashable]) -> list[int]:
    """Number the distinct values in order of first appearance."""
    known: dict[Hashable, int] = {}
    return [known.setdefault(value, len(known)) for value in values]


def _reached(graph: Any, followed: Any) -> Iterator[tuple[Any, bool, Mapping[int, set[int]]]]:
    """Yield the nodes that may constrain a group, whether they make channels, and the root's channels at theirs."""
    asking = {dep.target for dep, _ in followed.items if _asks(dep.target)}
    sources = {node: node.inputs[0] for node in asking if named(node.grad_fn, "Slice")}
    found: dict[tuple[Any, bool], dict[int, set[int]]] = {}
    for dep, idxs in followed.items:
        if dep.target in asking or dep.target in sources.values():
            at = found.setdefault((dep.target, graph.is_out_channel_pruning_fn(dep.handler)), {})
            for index in idxs:
                at.setdefault(index.idx, set()).add(index.root_idx)
    for (node, out), at in found.items():
        if node in sources:  # has only what is left of its source's
            yield node, out, found.get((sources[node], True), {})
        elif node in asking:
            yield node, out, at


def divides(graph: Any) -> bool:
    """Whether anything in a network may constrain the number of channels or tie channels together."""
    return any(
        named(node.grad_fn, *DIVIDING, "Cat", "Glu", "Pixel")
        or (isinstance(node.module, nn.modules.conv._ConvNd) and node.module.groups > 1)
        for node in graph.module2node.values()
    )


def _asks(node: Any) -> bool:
    return isinstance(node.module, LAYERS) or named(node.grad_fn, *DIVIDING)


def _wish(graph: Any, node: Any, *, out: bool) -> Wish | None:
    """Return a node's constraint; None if it has none."""
    module, fn = node.module, node.grad_fn
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups == 1 or node.type == ops.OPTYPE.DEPTHWISE_CONV:
            return None
        if module.transposed and out:
            raise InfeasibleError("a transposed convolution with groups makes its channels", rung="build")
        count = module.out_channels if out else module.in_channels
        return Wish(f"a convolution with {module.groups} groups", count, count // module.groups)
    if isinstance(module, LAYERS) or not named(fn, *DIVIDING):
        return None
    groups, of, parts = shuffled(fn, graph.axes), shape(fn, graph.axes), cut(fn, graph.axes)
    if groups is not None:
        count = sizes(fn)[1]
        blocks = [range(i, i + groups) for i in range(0, count, groups)]
        return Wish(f"a shuffle of {groups} groups", count, 0, blocks)
    if of is None:
        return None
    count = of.channels
    if named(fn, "NativeGroupNorm"):
        return Wish(f"a group norm with {fn._saved_group} groups", count, count // fn._saved_group)
    if parts is not None:
        if len(set(parts)) > 1:
            reason = f"its channels are split into parts of {', '.join(map(str, parts))}"
            raise InfeasibleError(reason, rung="build")
        return Wish(f"a split into {len(parts)} parts", count, parts[0])
    return _cut(fn, of) if named(fn, "Slice") and of.before[of.axis] != of.after[of.axis] else None


def _cut(fn: Any, of: Shape) -> Wish | None:
    """Return a slice's constraint: whole strides, or parts as long as the slice."""
    (start, step, _), size = slices(fn, of), of.after[of.axis]
    if step > 1:
        strides = [range(i, min(i + step, of.channels)) for i in range(0, of.channels, step)]
        return Wish(f"a slice with a step of {step}", of.channels, 0, strides)
    if start % size or of.channels % size:
        return None
    return Wish(f"a slice of {size} channels", of.channels, size)
