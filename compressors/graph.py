"""Finds what can be compressed in a network: layers, dependency groups, and what must be left alone and why."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch_pruning
from torch import Tensor, nn

from ..errors import InfeasibleError
from ..spaces.layers import Group, Layer, Network
from . import recurrent
from .bounds import TooLargeError, bounded
from .heads import HeadGroup, find_heads, prunable

LAYERS = (nn.Conv2d, nn.Linear)
"""Module types that count as layers."""

Inputs = tuple[Tensor, ...]


def inspect(model: nn.Module, examples: Inputs, *, keep: Sequence[str] = ()) -> Network:
    """Find the layers and the dependency groups of a network; the network is not changed.

    Every group is tried on a copy: one that breaks the forward pass, changes the outputs' shape or touches
    a kept layer is left alone, with the reason in `Network.left_alone`.

    Args:
        model: the network.
        examples: inputs, batch first.
        keep: names of layers, or of modules that hold layers, that must stay untouched.

    """
    costs = count(model, examples)
    kept = {name for name in costs if any(name == k or name.startswith(k + ".") for k in keep)}
    left = [(name, "the task keeps it") for name in costs if name in kept]
    uncalled = (n for n, module in model.named_modules() if isinstance(module, LAYERS) and n not in costs)
    left += [(name, "the network does not call it, though it may use its weight") for name in uncalled]
    left += [(n, recurrent.WIDTH_STAYS) for n, c in costs.items() if c.kind == "recurrent" and n not in kept]
    heads = find_heads(model, list(costs))
    understood = prunable(model, heads, lambda changed: run(changed, examples))
    try:
        found, large = _groups(model, examples)
        found.sort(key=lambda group: list(costs).index(group.data.name))
        left += large
    except Exception as error:  # the tracing of an arbitrary network may fail in any way
        left.append(("(all groups)", f"its dependencies cannot be traced: {_first_line(error)}"))
        found = []
    unknown = {h.name: h for h, known in zip(heads, understood, strict=True) if not known}
    left += [
        (group.data.name, "its heads mean something else once one is gone")
        for group in found
        if group.data.name in unknown
    ]
    found = [group for group in found if group.data.name not in unknown]
    groups = []
    for group in found:
        reason = _why_not(group, kept)
        if reason:
            left.append((group.data.name, reason))
        else:
            groups.append(group)
    groups, broken = _those_that_run(model, examples, groups)
    return Network(
        layers=tuple(
            _layer(name, costs[name], groups, model.get_submodule(name)) for name in costs if name not in kept
        ),
        groups=tuple(group.data for group in groups),
        left_alone=(*left, *broken),
    )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a layer holds and does."""

    kind: str
    params: int
    macs: int


def count(model: nn.Module, examples: Inputs) -> dict[str, Cost]:
    """Return parameters and multiply-accumulates of one example for each layer, in order of execution."""
    counted = (*LAYERS, *recurrent.RECURRENT)
    names: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, counted)}
    costs: dict[str, Cost] = {}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        name = names[module]
        before = costs[name].macs if name in costs else 0
        kind, macs = _work(module, inputs[0], output)
        params = sum(p.numel() for p in module.parameters(recurse=False))
        costs[name] = Cost(kind=kind, params=params, macs=before + macs)

    hooks = [module.register_forward_hook(record) for module in names]
    run(model, examples)
    for hook in hooks:
        hook.remove()
    return costs


def _work(module: nn.Module, x: Any, output: Any) -> tuple[str, int]:
    """Return a layer's kind, and the multiply-accumulates of one example in a call."""
    if isinstance(module, nn.RNNBase):
        return "recurrent", recurrent.macs(module, x)
    weight = module.weight
    assert isinstance(weight, Tensor)
    kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
    return kind, output[0].numel() // weight.shape[0] * weight.numel()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while; each module's own mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def run(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the outputs in evaluation mode without gradients."""
    with evaluating(model), torch.no_grad():
        outputs = model(*inputs)
    assert isinstance(outputs, Tensor)
    return outputs


@dataclass(frozen=True)
class _Traced:
    data: Group
    readers: tuple[str, ...]
    modules: tuple[nn.Module, ...]


def dependency_graph(model: nn.Module, examples: Inputs) -> Any:
    """Trace which channels of which modules must be pruned together (Fang et al., DepGraph, CVPR 2023)."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.eval()
    modules, found = dict(model.named_modules()), find_heads(model, list(count(model, examples)))
    with recurrent.as_one_operation(model), bounded():
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


def _groups(model: nn.Module, examples: Inputs) -> tuple[list[_Traced], list[tuple[str, str]]]:
    """Return the groups in order of their names' modules, and those that are too large to trace."""
    model = copy.deepcopy(model)
    graph = dependency_graph(model, examples)
    order = {module: (position, name) for position, (name, module) in enumerate(model.named_modules())}
    modules = dict(model.named_modules())
    groups, left = [], []
    seen = _output_layers(model, examples)
    for heads in graph.heads.values():
        seen.update(modules[name] for name in heads.inputs)
        groups.append(
            _Traced(
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
            traced = channel_group(graph, root, list(range(root.weight.shape[0])))
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


def _traced(graph: Any, traced: Any, losers: list[nn.Module], order: Order) -> _Traced:
    touched = [(dep.target.module, graph.is_out_channel_pruning_fn(dep.handler)) for dep, _ in traced]
    roots: list[Any] = [m for m in losers if getattr(m, "groups", 1) == 1] or losers
    return _Traced(
        data=Group(
            name=order[roots[0]][1],
            channels=roots[0].weight.shape[0],
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


def _why_not(group: _Traced, kept: set[str]) -> str | None:
    touched = kept.intersection(group.data.members + group.readers)
    if touched:
        return f"the task keeps {min(touched)}, which shares its channels"
    for module in group.modules:
        groups = getattr(module, "groups", 1)
        if isinstance(module, nn.Conv2d) and 1 < groups < module.out_channels:
            return f"a convolution with {groups} groups shares its channels"
    return None


def _those_that_run(
    model: nn.Module, examples: Inputs, groups: list[_Traced]
) -> tuple[list[_Traced], list[tuple[str, str]]]:
    """Split the groups into those that can be pruned and those that cannot, with the reasons, by trying halves."""
    reason = _breaks(model, examples, groups) if groups else None
    if reason is None:
        return groups, []
    if len(groups) == 1:
        return [], [(groups[0].data.name, reason)]
    middle = len(groups) // 2
    first, second = (_those_that_run(model, examples, half) for half in (groups[:middle], groups[middle:]))
    return [*first[0], *second[0]], [*first[1], *second[1]]


def _breaks(model: nn.Module, examples: Inputs, groups: list[_Traced]) -> str | None:
    from .prune import remove_channels

    shape = run(model, examples).shape
    try:
        pruned = remove_channels(model, {g.data.name: _half(g.data) for g in groups}, examples)
        after = run(pruned, examples).shape
    except InfeasibleError as error:
        return error.reason
    except Exception as error:  # a user's forward may fail in any way
        return f"its forward breaks after pruning: {_first_line(error)}"
    return None if after == shape else f"pruning it changes the outputs from {tuple(shape)} to {tuple(after)}"


def _half(group: Group) -> int:
    """Return about half a group's width, the larger half."""
    units = group.channels // group.granularity
    return (units - units // 2) * group.granularity


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def always_called(module: nn.Module) -> None:
    """Let PyTorch's encoder layers call a module in a layer's place; they compute without their modules otherwise."""
    module.register_forward_pre_hook(_as_they_are)


def _as_they_are(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Change nothing before a module computes."""


def parts(model: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Return a layer with its name, or, where it was factorised, the layers that take its place with theirs.

    Raises:
        InfeasibleError: the network has no such layer.

    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise InfeasibleError(f"the network has no layer {name!r}", rung="build") from None
    if isinstance(module, nn.Sequential):
        return [(f"{name}.{child}", layer) for child, layer in module.named_children()]
    return [(name, module)]


def multiplies(module: nn.Module) -> bool:
    """Whether a module does nothing but what a layer of its type does: it has no forward of its own."""
    return type(module).forward in [layer.forward for layer in LAYERS]


def _layer(name: str, cost: Cost, groups: list[_Traced], module: nn.Module) -> Layer:
    return Layer(
        name=name,
        kind=cost.kind,
        params=cost.params,
        macs=cost.macs,
        in_groups=tuple(group.data.name for group in groups if name in group.readers),
        out_group=next((group.data.name for group in groups if name in group.data.members), None),
        shape=tuple(cast(Tensor, module.weight).shape) if multiplies(module) else (),
        groups=cast(int, getattr(module, "groups", 1)),
        stride=math.prod(module.stride) if isinstance(module, nn.Conv2d) else 1,
    )
