"""Finds the tensors between layers whose channels may be scaled, as a positive factor of a channel passes through.

Such tensors are made by layers, or by norms with a weight for each channel; they are read by layers; and what lies
between commutes with the factors: ReLU, pools, sums, views. Tensors are followed by their identity in one forward pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..modules import LAYERS, Inputs, run

NORMS = (nn.LayerNorm, nn.RMSNorm)
"""Norms over the last axis, which may have a weight for each channel."""

aten = torch.ops.aten


@dataclass(eq=False)
class Joint:
    """Tensors that share one factor for each channel.

    Attributes:
        channels: their number.
        makers: names of the layers and norms that make such a tensor.
        readers: names of the layers that read one.
        cap: a channel is cut off here, and must stay below it to be scaled.

    """

    channels: int
    makers: list[str]
    readers: list[str] = field(default_factory=list)
    cap: float = math.inf
    bound: bool = False
    into: Joint | None = None

    def root(self) -> Joint:
        """Return the joint that this one was merged into."""
        return self if self.into is None else self.into.root()

    def merge(self, other: Joint) -> None:
        """Let two joints be one; a sum of tensors that are cut off has no factors."""
        ours, theirs = self.root(), other.root()
        if ours is theirs:
            return
        theirs.into = ours
        ours.makers += theirs.makers
        ours.readers += theirs.readers
        ours.bound |= theirs.bound or math.isfinite(min(ours.cap, theirs.cap))

    def cut(self, cap: float) -> None:
        """Note where channels are cut off."""
        found = self.root()
        found.cap = min(found.cap, cap)
        found.bound |= len(found.makers) > 1


def joints(model: nn.Module, names: Iterable[str], examples: Inputs) -> list[Joint]:
    """Return the joints of the given layers, in order of execution; none where a network's operations cannot be traced.

    Args:
        model: with batch norms folded.
        names: of the layers.
        examples: its inputs.

    """
    trace = _Trace(_apart(model, set(names)))
    hooks = [hook for name, module in trace.modules.items() for hook in trace.watch(name, module)]
    try:
        with trace:
            outputs = run(model, examples)
    except Exception:  # what a network's own code does where all its operators are looked at
        return []
    finally:
        for hook in hooks:
            hook.remove()
    trace.bind(outputs)
    found = dict.fromkeys(joint.root() for _, joint, _ in trace.entries.values())
    once = {name for name, times in trace.calls.items() if times == 1}
    return [j for j in found if not j.bound and j.readers and once.issuperset(j.makers + j.readers)]


def _apart(model: nn.Module, names: set[str]) -> dict[str, nn.Module]:
    """Return the given layers, and the norms, whose parameters are theirs alone."""
    times = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    found = {
        name: module
        for name, module in model.named_modules()
        if (isinstance(module, LAYERS) and name in names)
        or (isinstance(module, NORMS) and len(module.normalized_shape) == 1 and module.weight is not None)
    }
    return {n: m for n, m in found.items() if all(times[id(p)] == 1 for p in m.parameters(recurse=False))}


class _Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows what modules make through the operations outside of them."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.modules = modules
        self.entries: dict[int, tuple[Tensor, Joint, int]] = {}  # keeps the tensors, so that no identity is used twice
        self.calls: Counter[str] = Counter()
        self.inside = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if not self.inside:
            self._follow(func.overloadpacket, args, kwargs or {}, outputs)
        return outputs

    def watch(self, name: str, module: nn.Module) -> list[Any]:
        """Return hooks that see what a module reads and makes."""

        def enter(_: nn.Module, args: Inputs, kwargs: Mapping[str, Any]) -> None:
            self.inside += 1
            self.calls[name] += 1
            entry = self.entries.get(id(args[0])) if args else None
            if entry is None or isinstance(module, NORMS) or entry[2] != channel_axis(module, args[0]):
                self.bind((args, kwargs))
            else:
                entry[1].root().readers.append(name)
                self.bind((args[1:], kwargs))

        def leave(_: nn.Module, __: Inputs, output: Tensor) -> None:
            self.inside -= 1
            axis = channel_axis(module, output)
            self.entries[id(output)] = output, Joint(output.shape[axis], [name]), axis

        return [module.register_forward_pre_hook(enter, with_kwargs=True), module.register_forward_hook(leave)]

    def bind(self, tensors: Any) -> None:
        """Take its factors from every tensor in a structure: something else reads it."""
        for tensor in tree_leaves(tensors):
            if id(tensor) in self.entries:
                self.entries[id(tensor)][1].root().bound = True

    def _follow(self, operation: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        first = self.entries.get(id(args[0])) if args else None
        output = outputs[0] if isinstance(outputs, tuple) and operation in POOLS else outputs
        axis = None
        if first is not None and isinstance(output, Tensor):
            tensor, joint, before = first
            if operation in SUMS:
                axis = self._summed(first, args, kwargs)
            elif operation in CUTS:
                least, most = (*args[1:], *([None] * 2))[:2]
                least, most = kwargs.get("min", least), kwargs.get("max", most)
                axis = before if least == 0 and not kwargs.keys() - {"min", "max"} else None
                if most is not None and axis is not None:
                    joint.cut(float(most))
            elif operation in MOVES:
                axis = MOVES[operation](before, args, tensor, output)
        if axis is None:
            self.bind((args, kwargs))
        else:
            self.entries[id(output)] = output, joint, axis

    def _summed(self, first: tuple[Tensor, Joint, int], args: Any, kwargs: Any) -> int | None:
        """Merge the joints of two terms; return the axis of their channels, None if they do not fit."""
        other = self.entries.get(id(args[1]))
        if other is None or kwargs.get("alpha", 1) != 1:
            return None
        if first[0].shape != other[0].shape or first[2] != other[2]:
            return None
        first[1].merge(other[1])
        return first[2]


def channel_axis(module: nn.Module, tensor: Tensor) -> int:
    """Return the axis of the channels in what a module reads or makes."""
    if isinstance(module, (nn.Linear, *NORMS)):
        return tensor.dim() - 1
    return tensor.dim() - len(module.kernel_size) - 1  # type: ignore[arg-type]


Move = Callable[[int, Any, Tensor, Tensor], int | None]
"""Returns where the channels are after an operation, from their axis before it, its arguments, input and output."""


def _kept(axis: int, args: Any, before: Tensor, after: Tensor) -> int | None:
    return axis


def _viewed(axis: int, args: Any, before: Tensor, after: Tensor) -> int | None:
    """Channels keep their place if what is in front of them is the same, or if they are last and stay so."""
    if before.shape[: axis + 1] == after.shape[: axis + 1]:
        return axis
    last = axis == before.dim() - 1 and before.shape[-1] == after.shape[-1]
    return after.dim() - 1 if last else None


def _permuted(axis: int, args: Any, before: Tensor, after: Tensor) -> int | None:
    places: list[int] = [place % before.dim() for place in args[1]]
    return places.index(axis)


def _transposed(axis: int, args: Any, before: Tensor, after: Tensor) -> int | None:
    one, other = args[1] % before.dim(), args[2] % before.dim()
    return other if axis == one else one if axis == other else axis


def _averaged(axis: int, args: Any, before: Tensor, after: Tensor) -> int | None:
    gone = [place % before.dim() for place in (args[1] if len(args) > 1 else None) or range(before.dim())]
    if axis in gone:
        return None
    return axis if before.dim() == after.dim() else axis - sum(place < axis for place in gone)


def _padded(axis: int, args: Any, before: Tensor, after: Tensor) -> int | None:
    value = args[2] if len(args) > 2 else 0
    return axis if value == 0 and before.shape[axis] == after.shape[axis] else None


POOLS = {
    aten.max_pool1d_with_indices,
    aten.max_pool2d_with_indices,
    aten.max_pool3d_with_indices,
    aten.adaptive_max_pool2d,
    aten.avg_pool1d,
    aten.avg_pool2d,
    aten.avg_pool3d,
    aten._adaptive_avg_pool2d,
    aten._adaptive_avg_pool3d,
}
SUMS = {aten.add, aten.add_}
CUTS = {aten.hardtanh, aten.hardtanh_, aten.clamp, aten.clamp_, aten.clamp_min, aten.clamp_min_}
MOVES: dict[Any, Move] = {
    **dict.fromkeys((*POOLS, aten.relu, aten.relu_, aten.leaky_relu, aten.leaky_relu_), _kept),
    **dict.fromkeys((aten.clone, aten.detach, aten.alias, aten.contiguous), _kept),
    **dict.fromkeys((aten.view, aten._unsafe_view, aten.reshape, aten.unsqueeze, aten.squeeze), _viewed),
    aten.permute: _permuted,
    aten.transpose: _transposed,
    aten.mean: _averaged,
    aten.constant_pad_nd: _padded,
}
"""Operations that commute with a positive factor for each channel."""
