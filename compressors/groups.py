"""Dependency groups: which channels of which layers must be pruned together, and which groups can be pruned at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from ..errors import InfeasibleError, gist
from ..spaces.layers import Group
from ..studies.networks.copied import copied
from . import recurrent
from .bounds import TooLargeError, bounded
from .graph import CONVOLUTIONS, LAYERS, Inputs, count, out_channels, padded_with_zeros, run
from .heads import HeadGroup, find_heads


@dataclass(frozen=True)
class Traced:
    """A group as it was found: its name and width, the layers that read its channels, and all modules it touches."""

    data: Group
    readers: tuple[str, ...]
    modules: tuple[nn.Module, ...]


def dependency_graph(model: nn.Module, examples: Inputs) -> Any:
    """Trace which channels of which modules must be pruned together (Fang et al., DepGraph, CVPR 2023)."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()
    modules, found = dict(model.named_modules()), find_heads(model, list(count(model, examples)))
    with recurrent.as_one_operation(model), padded_with_zeros(model), bounded():
        graph = torch_pruning.DependencyGraph().build_dependency(
            model, example_inputs=list(examples), customized_pruners=recurrent.PRUNERS, verbose=False
        )
    graph.heads = {modules[heads.name]: heads for heads in found}
    return graph


def channel_group(graph: Any, root: nn.Module, channels: list[int]) -> Any:
    """Return all that must go when some output channels of a layer go; for attention they are those of whole heads."""
    if root in graph.heads:
        return HeadGroup(graph, graph.heads[root], channels)
    with bounded():
        return graph.get_pruning_group(root, graph.get_pruner_of_module(root).prune_out_channels, channels)


def least_important(graph: Any, root: nn.Module, scores: Tensor, width: int) -> list[int]:
    """Return the output channels of a layer that go so that about ``width`` stay, in order; of attention whole heads.

    Args:
        graph: see `dependency_graph`.
        root: the layer that stands for the group.
        scores: how important each of its output channels is, shape (channels,).
        width: how many are to stay; rounded to whole heads, of which at least one stays.

    """
    if root not in graph.heads:
        return sorted(scores.argsort(stable=True)[: len(scores) - width].tolist())
    heads = graph.heads[root]
    owners = torch.tensor([heads.head_of(channel) for channel in range(len(scores))], device=scores.device)
    sums = torch.zeros(heads.count, dtype=scores.dtype, device=scores.device).index_add(0, owners, scores)
    stay = max(1, round(width / heads.granularity))
    gone = set(sums.argsort(stable=True)[: heads.count - stay].tolist())
    return [channel for channel in range(len(scores)) if heads.head_of(channel) in gone]


def find_groups(model: nn.Module, examples: Inputs) -> tuple[list[Traced], list[tuple[str, str]]]:
    """Return the groups in order of their names' modules, and those that are too large to trace."""
    model = copied(model)
    graph = dependency_graph(model, examples)
    order = {module: (position, name) for position, (name, module) in enumerate(model.named_modules())}
    modules = dict(model.named_modules())
    groups, left = [], []
    seen = _output_layers(model, examples)
    for heads in graph.heads.values():
        seen.update(modules[name] for name in heads.inputs)
        groups.append(
            Traced(
                data=Group(
                    name=heads.name, channels=heads.channels, members=heads.inputs, granularity=heads.granularity
                ),
                readers=(heads.output,),
                modules=tuple(modules[name] for name in (*heads.inputs, heads.output)),
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
        if kept.isdisjoint(losers):
            groups.append(_traced(graph, traced, losers, order))
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
        ),
        readers=tuple(order[m][1] for m, out in touched if not out and isinstance(m, LAYERS) and m in order),
        modules=tuple(m for m, _ in touched),
    )


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
    """Return why a group must be left alone; None where nothing says so before it is tried."""
    touched = kept.intersection(group.data.members + group.readers)
    if touched:
        return f"the task keeps {min(touched)}, which shares its channels"
    for module in group.modules:
        groups = getattr(module, "groups", 1)
        if isinstance(module, CONVOLUTIONS) and 1 < groups < module.out_channels:
            return f"a convolution with {groups} groups shares its channels"
    return None


def those_that_run(
    model: nn.Module, examples: Inputs, groups: list[Traced]
) -> tuple[list[Traced], list[tuple[str, str]]]:
    """Split the groups into those that can be pruned and those that cannot, with the reasons, by trying halves."""
    reason = _breaks(model, examples, groups) if groups else None
    if reason is None:
        return groups, []
    if len(groups) == 1:
        return [], [(groups[0].data.name, reason)]
    middle = len(groups) // 2
    first, second = (those_that_run(model, examples, half) for half in (groups[:middle], groups[middle:]))
    return [*first[0], *second[0]], [*first[1], *second[1]]


def _breaks(model: nn.Module, examples: Inputs, groups: list[Traced]) -> str | None:
    from .prune import remove_channels

    shape = run(model, examples).shape
    try:
        pruned = remove_channels(model, {g.data.name: _half(g.data) for g in groups}, examples)
        after = run(pruned, examples).shape
    except InfeasibleError as error:
        return error.reason
    except Exception as error:  # a user's forward may fail in any way
        return f"its forward breaks after pruning: {gist(error)}"
    return None if after == shape else f"pruning it changes the outputs from {tuple(shape)} to {tuple(after)}"


def _half(group: Group) -> int:
    """Return about half a group's width, the larger half."""
    units = group.channels // group.granularity
    return (units - units // 2) * group.granularity
