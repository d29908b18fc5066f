"""Prunes whole attention heads, from all projections at once, and corrects the module's head count.

A channel of a query alone cannot go: the heads behind it would take over each other's channels. A head can: without
it the network computes what it would with that head's columns of the output projection at zero (Michel et al., Are
Sixteen Heads Really Better than One?, NeurIPS 2019). This is how heads that were found are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch_pruning import _helpers as helpers
from torch_pruning.dependency import Dependency
from torch_pruning.dependency import Group as TracedGroup

from ...studies.networks.copied import copied

COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "nhead", "heads")
"""What modules call the number of their heads."""

SIZES = ("head_dim", "attention_head_size", "head_size", "dim_head")
"""What modules call the channels of one head."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of one attention.

    Attributes:
        owner: qualified name of the module that counts them.
        inputs: names of the layers that make queries, keys and values: three layers, or one for all three, in which
            all queries come before all keys.
        output: name of the layer that reads the heads' outputs.
        count: how many there are.
        size: channels of one head.

    """

    owner: str
    inputs: tuple[str, ...]
    output: str
    count: int
    size: int

    @property
    def name(self) -> str:
        """The root layer, whose name is the group's."""
        return self.inputs[0]

    @property
    def width(self) -> int:
        """Channels of all heads together."""
        return self.count * self.size

    @property
    def granularity(self) -> int:
        """Output channels of the root layer that one head takes."""
        return self.size * (3 if len(self.inputs) == 1 else 1)

    @property
    def channels(self) -> int:
        """Output channels of the root layer."""
        return self.count * self.granularity

    def head_of(self, channel: int) -> int:
        """Return the head that an output channel of the root layer belongs to."""
        return channel % self.width // self.size

    def columns(self, heads: Sequence[int]) -> list[int]:
        """Return the output layer's input channels that come from some heads, in order."""
        return [head * self.size + i for head in heads for i in range(self.size)]


def find_heads(model: nn.Module, called: Sequence[str]) -> list[Heads]:
    """Return the attentions whose heads may be pruned: those whose structure `remove_heads` knows.

    Args:
        model: a network.
        called: names of its layers in order of execution.

    """
    found = []
    modules = dict(model.named_modules())
    for owner, module in modules.items():
        inside = [name for name in called if name.rpartition(".")[0] == owner and isinstance(modules[name], nn.Linear)]
        for number in (3, 1):
            heads = _heads_of(owner, module, inside[:number], called, modules)
            if heads is not None and len(inside) >= number:
                found.append(heads)
                break
    return found


def _heads_of(
    owner: str, module: nn.Module, inputs: Sequence[str], called: Sequence[str], modules: dict[str, nn.Module]
) -> Heads | None:
    if not inputs:
        return None
    first = called.index(inputs[0])
    if tuple(called[first : first + len(inputs)]) != tuple(inputs) or first + len(inputs) == len(called):
        return None
    output = called[first + len(inputs)]
    reader = modules[output]
    widths = {cast(nn.Linear, modules[name]).out_features for name in inputs}
    if not isinstance(reader, nn.Linear) or widths != {reader.in_features * (3 if len(inputs) == 1 else 1)}:
        return None
    count, size = _counted(module, reader.in_features)
    if count < 2:
        return None
    return Heads(owner=owner, inputs=tuple(inputs), output=output, count=count, size=size)


def _counted(module: nn.Module, width: int) -> tuple[int, int]:
    """Return the number and size of a module's heads, by its attributes; zeros if they do not add up to its width."""
    known = vars(module)
    for name in COUNTS:
        count = known.get(name)
        if isinstance(count, int) and count > 0 and width % count == 0:
            size = next((known[s] for s in SIZES if s in known), width // count)
            if size == width // count:
                return count, size
    return 0, 0


def remove_heads(model: nn.Module, heads: Heads, gone: Sequence[int]) -> None:
    """Remove heads of an attention in place, and update its module's attributes for their number and width."""
    stay = [head for head in range(heads.count) if head not in set(gone)]
    columns = heads.columns(stay)
    for name in heads.inputs:
        layer = cast(nn.Linear, model.get_submodule(name))
        parts = range(0, layer.out_features, heads.width)
        rows = torch.tensor([part + column for part in parts for column in columns])
        layer.weight = _chosen(layer.weight, rows, 0)
        layer.bias = None if layer.bias is None else _chosen(layer.bias, rows, 0)
        layer.out_features = len(rows)
    reader = cast(nn.Linear, model.get_submodule(heads.output))
    reader.weight = _chosen(reader.weight, torch.tensor(columns), 1)
    reader.in_features = len(columns)
    owner = model.get_submodule(heads.owner)
    for name, value in list(vars(owner).items()):
        if type(value) is int and name in COUNTS and value == heads.count:
            setattr(owner, name, len(stay))
        elif type(value) is int and name not in SIZES and value == heads.width:
            setattr(owner, name, len(columns))


def _chosen(parameter: Tensor, indices: Tensor, dim: int) -> nn.Parameter:
    chosen = parameter.detach().index_select(dim, indices.to(parameter.device))
    return nn.Parameter(chosen, requires_grad=parameter.requires_grad)


def prunable(model: nn.Module, found: Sequence[Heads], run: Callable[[nn.Module], Tensor]) -> list[bool]:
    """Return for each attention whether removing a head equals silencing it, so that its structure is as assumed.

    Args:
        model: the network; it is not changed.
        found: its attentions.
        run: gives a network's outputs.

    """

    def same(some: Sequence[Heads]) -> bool:
        fewer, silent = copied(model), copied(model)
        for heads in some:
            remove_heads(fewer, heads, [0])
            reader = cast(nn.Linear, silent.get_submodule(heads.output))
            with torch.no_grad():
                reader.weight[:, heads.columns([0])] = 0
        try:
            actual = run(fewer)
        except Exception:  # a user's forward may fail in any way
            return False
        expected = run(silent)
        scale = float(expected.abs().max())
        return actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-3, atol=1e-4 * scale)

    if not found or same(found):
        return [True] * len(found)
    return [same([heads]) for heads in found]


class HeadGroup(TracedGroup):  # type: ignore[misc]  # the library has no types
    """The slices of all layers that belong to heads, in the form that channel importances read."""

    def __init__(self, graph: Any, heads: Heads, channels: Sequence[int]) -> None:
        super().__init__()
        self._DG = graph
        self.heads, self.channels = heads, list(channels)
        modules = dict(graph.model.named_modules())
        for name in heads.inputs:
            self._add(modules[name], self.channels, self.channels, out=True)
        values = {channel % heads.width: channel for channel in self.channels}  # those of the last part remain
        self._add(modules[heads.output], list(values), list(values.values()), out=False)

    def _add(self, module: nn.Module, indices: Sequence[int], roots: Sequence[int], *, out: bool) -> None:
        pruner = self._DG.get_pruner_of_module(module)
        function = pruner.prune_out_channels if out else pruner.prune_in_channels
        node = self._DG.module2node[module]
        item = helpers.GroupItem(Dependency(function, function, node, node), list(indices))
        item.root_idxs = list(roots)
        self._group.append(item)

    def prune(self, idxs: Sequence[int] | None = None, record_history: bool = True) -> None:
        """Remove the heads that the channels belong to."""
        gone = {self.heads.head_of(channel) for channel in (self.channels if idxs is None else idxs)}
        remove_heads(self._DG.model, self.heads, sorted(gone))
