"""Finds what can be compressed in a network: layers, dependency groups, and what must be left alone and why."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

from torch import nn

from ...errors import gist
from ...spaces.layers import WORK, Layer, Network
from ..activations import exchangeable
from ..depth.depth import branches_of
from ..modes import only_in_training
from ..modules import LAYERS, Cost, Inputs, costs_of, multiplies, run, shape, stride, work
from ..onnx_files.qdq import UNSTORED
from ..resolution import resolutions_of
from ..tied import shared_with
from . import recurrent
from .attempts import Attempts
from .attention_heads import find_heads, prunable
from .dependency_groups import Traced, find_groups, why_not

LARGE = 0.01
"""Share of a network's parameters from which on an embedding is reported."""


def inspect(
    model: nn.Module, examples: Inputs, *, keep: Sequence[str] = (), resolutions: Sequence[float] = ()
) -> Network:
    """Find the layers and the dependency groups of a network; the network is not changed.

    Every group is tried on a copy: one that breaks the forward pass, changes the outputs' shape or touches
    a kept layer is left alone, with the reason in `Network.left_alone`.

    Args:
        model: the network.
        examples: inputs, batch first.
        keep: names of layers, or of modules that hold layers, that must stay untouched.
        resolutions: shares of its images' height and width that are tried.

    """
    done = work(model, examples)
    costs = costs_of(model, done)
    kept = {name for name in costs if _kept(name, keep)}
    left = [(name, "the task keeps it") for name in costs if name in kept]
    left += _uncalled(model, examples, costs)
    left += [(n, recurrent.WIDTH_STAYS) for n, c in costs.items() if c.kind == "recurrent" and n not in kept]
    shared = shared_with(model)
    left += [
        (n, f"it shares parameters with {shared[n]}: not factorised") for n in costs if n in shared and n not in kept
    ]
    try:
        groups, others = _groups(model, examples, list(costs), kept)
        groups.sort(key=lambda group: list(costs).index(group.data.name))
    except Exception as error:  # the tracing of an arbitrary network may fail in any way
        groups, others = [], [("(all groups)", f"its dependencies cannot be traced: {gist(error)}")]
    branches, staying = branches_of(model, examples, kept)
    by_heads = {member for group in groups if group.heads for member in group.data.members}
    beyond = [name for name, macs in done.items() if macs and name not in costs and not _holds(name, by_heads)]
    left += [(name or "(its forward)", _beyond(model.get_submodule(name), done, name)) for name in beyond]
    left += [(name, _embedding(share)) for name, share in _embeddings(model)]
    activations, bare = exchangeable(model, examples, lambda name: _kept(name, keep))
    working, failing = resolutions_of(model, examples, resolutions)
    return Network(
        layers=tuple(
            _layer(name, costs[name], groups, model.get_submodule(name), shared=name in shared)
            for name in costs
            if name not in kept
        ),
        groups=tuple(group.data for group in groups),
        branches=tuple(branches),
        activations=activations,
        resolutions=working,
        left_alone=(*left, *others, *staying, *bare, *failing),
        macs=sum(done.values()),
        unreached=sum(done[name] for name in beyond if not _kept(name, keep)),
    )


def unstored(network: Network, found: Collection[str]) -> Network:
    """Return a network description that names the layers whose weights the exported file lacks.

    Args:
        network: see `inspect`.
        found: the layers whose weights the file multiplies by.

    """
    missing = [layer.name for layer in network.layers if layer.name not in found]
    layers = tuple(replace(layer, stored=layer.name in found) for layer in network.layers)
    return replace(network, layers=layers, left_alone=(*network.left_alone, *((n, UNSTORED) for n in missing)))


def _kept(name: str, keep: Sequence[str]) -> bool:
    return any(name == each or name.startswith(each + ".") for each in keep)


def _holds(name: str, members: Collection[str]) -> bool:
    """Whether a module's own products shrink with the heads of its layers."""
    return any(member.startswith(name + ".") for member in members)


def _beyond(module: nn.Module, done: Mapping[str, int], name: str) -> str:
    """Return why the products that a module computes without layers are left alone, and their share."""
    kind, share = type(module).__name__, f"{done[name] / sum(done.values()):.0%} {WORK}"
    if next(module.parameters(recurse=False), None) is not None and next(module.children(), None) is None:
        return f"no technique changes a {kind}: {share}"
    return f"products that the {kind} computes by functions, not by layers, which no technique changes: {share}"


def _embeddings(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield the embeddings that hold a large share of a network's parameters, with the share."""
    whole = sum(p.numel() for p in model.parameters())
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.weight.numel() >= LARGE * whole:
            yield name, module.weight.numel() / whole


def _embedding(share: float) -> str:
    return f"no technique changes an embedding: {share:.0%} of all parameters"


def _uncalled(model: nn.Module, examples: Inputs, called: Collection[str]) -> list[tuple[str, str]]:
    """Return the layers that do not run when the network is served, and why they are left alone."""
    names = {module: n for n, module in model.named_modules() if isinstance(module, LAYERS) and n not in called}
    trained = only_in_training(model, examples) if names else set()
    return [
        (
            name,
            "it runs only while the network trains"
            if module in trained
            else "the network does not call it, though it may use its weight",
        )
        for module, name in names.items()
    ]


def _groups(
    model: nn.Module, examples: Inputs, called: Sequence[str], kept: set[str]
) -> tuple[list[Traced], list[tuple[str, str]]]:
    """Return the groups that can be pruned, and why others are left alone."""
    heads = find_heads(model, called)
    understood = prunable(model, heads, lambda changed: run(changed, examples))
    unknown = {h.name for h, known in zip(heads, understood, strict=True) if not known}
    found, left = find_groups(model, examples)
    groups = []
    for group in found:
        name = group.data.name
        reason = "its heads mean something else once one is gone" if name in unknown else why_not(group, kept)
        if reason:
            left.append((name, reason))
        else:
            groups.append(group)
    if not groups:
        return [], left
    groups, broken = Attempts(model, examples).split(groups)
    return groups, [*left, *broken]


def _layer(name: str, cost: Cost, groups: list[Traced], module: nn.Module, *, shared: bool) -> Layer:
    return Layer(
        name=name,
        kind=cost.kind,
        params=cost.params,
        macs=cost.macs,
        in_groups=tuple(group.data.name for group in groups if name in group.readers),
        out_group=next((group.data.name for group in groups if name in group.data.members), None),
        shape=shape(module) if multiplies(module) and not shared else (),
        groups=cast(int, getattr(module, "groups", 1)),
        stride=stride(module),
    )
