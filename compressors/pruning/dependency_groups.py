"""Dependency groups: which channels of which layers must be pruned together, and which groups can be pruned at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_pruning import ops

from ...errors import InfeasibleError
from ...spaces.layers import Group
from ...studies.networks.copied import copied
from ..modes import in_all_modes
from ..modules import LAYERS, Inputs, count, out_channels, padded_with_zeros, run
from . import recurrent
from .attention_heads import HeadGroup, find_heads
from .channels.moves import teach
from .channels.norms import PRUNERS
from .channels.units import Units, divides, units_of
from .tracing_limits import TooLargeError, bounded


@dataclass(frozen=True)
class Traced:
    """A group as traced: its name and width, the layers that read its channels, and whether it has heads."""

    data: Group
    readers: tuple[str, ...]
    heads: bool = False


def dependency_graph(model: nn.Module, examples: Inputs) -> Any:
    """Trace which channels of which modules must be pruned together (Fang et al., DepGraph, CVPR 2023).

    Layers that only run while the network trains are traced, too.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()
    modules, called = dict(model.named_modules()), list(count(model, examples))
    pruners: dict[Any, Any] = {**recurrent.PRUNERS, **PRUNERS}
    with recurrent.as_one_operation(model), padded_with_zeros(model), bounded():
        graph = torch_pruning.DependencyGraph().build_dependency(
            model,
            example_inputs=list(examples),
            forward_fn=in_all_modes,
            customized_pruners=pruners,
            verbose=False,
        )
        teach(graph)
    graph.called = set(called)
    graph.heads = {modules[heads.name]: heads for heads in find_heads(model, called)}
    return graph


def channel_group(graph: Any, root: nn.Module, channels: list[int]) -> Any:
    """Return everything to remove with some output channels of a layer; in attention, whole heads."""
    return _followed(graph, root, channels)[0]


def _followed(graph: Any, root: nn.Module, channels: list[int]) -> tuple[Any, Any]:
    """Return a group, and the same group as traced, before the slices of one layer were merged."""
    if root in graph.heads:
        return HeadGroup(graph, graph.heads[root], channels), None
    with bounded() as groups:
        merged = graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, channels)
    return merged, groups[0]


def units(graph: Any, root: nn.Module) -> Units:
    """Return how the output channels of a layer may be removed: in attention, whole heads."""
    count = graph.get_out_channels(root)
    if root in graph.heads:
        heads = graph.heads[root]
        return Units([heads.head_of(channel) for channel in range(count)], [0] * heads.count)
    if not divides(graph):
        return Units(range(count), [0] * count)
    return units_of(graph, root, _followed(graph, root, list(range(count)))[1])


def outputs_of(graph: Any, group: Any) -> dict[str, set[int]]:
    """Return which of its outputs each layer loses with a group, by the layer's name."""
    names = {module: name for name, module in graph.model.named_modules() if isinstance(module, LAYERS)}
    found: dict[str, set[int]] = {}
    for item in group:
        layer = item.dep.target.module
        if layer in names and graph.is_out_channel_pruning_fn(item.dep.handler):
            found.setdefault(names[layer], set()).update(item.idxs)
    return found


def remove(group: Any) -> None:
    """Remove the channels of a group from its network, in place."""
    grouped = [item for item in group if _reads_in_groups(group, item.dep)]
    group._group = [item for item in group if item not in grouped]
    group.prune()
    for dep, channels in grouped:
        _narrow(dep.target.module, channels)


def _reads_in_groups(group: Any, dep: Any) -> bool:
    """Whether a dependency is on a grouped convolution that reads the channels."""
    node, reads = dep.target, not group._DG.is_out_channel_pruning_fn(dep.handler)
    return reads and node.type == ops.OPTYPE.CONV and node.module.groups > 1


def _narrow(layer: Any, channels: Sequence[int]) -> None:
    """Remove input channels of a grouped convolution, equally many from each group (torch-pruning does not)."""
    gone, each = set(channels), layer.in_channels // layer.groups
    rows = [[c % each for c in range(g * each, (g + 1) * each) if c not in gone] for g in range(layer.groups)]
    weights = layer.weight.detach().chunk(layer.groups)
    narrow = torch.cat([weight[:, kept] for weight, kept in zip(weights, rows, strict=True)])
    layer.weight = nn.Parameter(narrow, requires_grad=layer.weight.requires_grad)
    layer.in_channels -= len(gone)


def find_groups(model: nn.Module, examples: Inputs) -> tuple[list[Traced], list[tuple[str, str]]]:
    """Return the groups in module order, and those that are too large to trace."""
    model = copied(model)
    graph = dependency_graph(model, examples)
    modules = dict(model.named_modules())
    order = {
        module: (position, name) for position, (name, module) in enumerate(modules.items()) if name in graph.called
    }
    groups, left = [], []
    seen = _output_layers(model, examples)
    for heads in graph.heads.values():
        seen.update(modules[name] for name in heads.inputs)
        groups.append(
            Traced(
                data=Group(
                    name=heads.name,
                    channels=heads.channels,
                    members=heads.inputs,
                    granularity=heads.granularity,
                    scaled=False,
                ),
                readers=(heads.output,),
                heads=True,
            )
        )
    kept = set(seen)
    for root in [m for m in graph.module2node if isinstance(m, LAYERS) and m in order]:
        if root in seen:
            continue
        try:
            traced = channel_group(graph, root, list(range(out_channels(root))))
        except TooLargeError as error:
            if error.so_far is None:
                raise
            seen.update(_losers(graph, error.so_far, order))
            left.append((order[root][1], f"its dependencies cannot be traced: {error}"))
            continue
        losers = _losers(graph, traced, order)
        seen.update(losers)
        if not kept.isdisjoint(losers):
            continue
        group = _traced(graph, traced, losers, order)
        try:
            _check(graph, traced)
            groups.append(_with_granularity(graph, group, modules))
        except InfeasibleError as error:
            left.append((group.data.name, error.reason))
    return groups, left


Order = Mapping[nn.Module, tuple[int, str]]


def _losers(graph: Any, traced: Any, order: Order) -> list[nn.Module]:
    """Return the layers of a traced group that lose output channels, in the network's order."""
    found = {dep.target.module for dep, _ in traced if graph.is_out_channel_pruning_fn(dep.handler)}
    return sorted((m for m in found if isinstance(m, LAYERS) and m in order), key=order.__getitem__)


def _traced(graph: Any, traced: Any, losers: list[nn.Module], order: Order) -> Traced:
    touched = [(dep.target.module, graph.is_out_channel_pruning_fn(dep.handler)) for dep, _ in traced]
    roots: list[Any] = [m for m in losers if getattr(m, "groups", 1) == 1] or losers
    return Traced(
        data=Group(
            name=order[roots[0]][1],
            channels=out_channels(roots[0]),
            members=tuple(order[m][1] for m in losers),
            scaled=any(isinstance(module, _BatchNorm) and module.affine for module, _ in touched),
        ),
        readers=tuple(order[m][1] for m, out in touched if not out and isinstance(m, LAYERS) and m in order),
    )


def _check(graph: Any, traced: Any) -> None:
    """Raise if channels were followed to positions that do not exist."""
    for dep, idxs in traced:
        module, out = dep.target.module, graph.is_out_channel_pruning_fn(dep.handler)
        width = graph.get_out_channels(dep.target) if out else graph.get_in_channels(dep.target)
        if isinstance(module, nn.Module) and not isinstance(module, ops._OutputOp) and width and max(idxs) >= width:
            raise InfeasibleError(f"its channels cannot be followed through a {type(module).__name__}", rung="build")


def _with_granularity(graph: Any, group: Traced, modules: Mapping[str, nn.Module]) -> Traced:
    found = units(graph, modules[group.data.name])
    if found.steps == 1 < group.data.channels:
        raise InfeasibleError(f"what reads its {group.data.channels} channels needs all of them", rung="build")
    return replace(group, data=replace(group.data, granularity=found.granularity))


def _output_layers(model: nn.Module, examples: Inputs) -> set[nn.Module]:
    made: dict[int, nn.Module] = {}
    alive: list[Tensor] = []  # keeps every tensor, so that no identity is used twice

    def record(module: nn.Module, _: Any, output: Tensor) -> None:
        alive.append(output)
        made[id(output)] = module

    hooks = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, LAYERS)]
    outputs = run(model, examples)
    for hook in hooks:
        hook.remove()
    return {made[id(outputs)]} if id(outputs) in made else set()


def why_not(group: Traced, kept: set[str]) -> str | None:
    """Return why a group must be left alone; None if nothing is known before it is tried."""
    touched = kept.intersection(group.data.members + group.readers)
    if touched:
        return f"the task keeps {min(touched)}, which shares its channels"
    return None
