"""Penalties that make channels small during training, so that pruning them costs little."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import InfeasibleError
from ...studies.networks.copied import copied
from ..modules import Inputs, out_channels
from .dependency_groups import channel_group, dependency_graph
from .importance import GroupSlice, group_slices, select, sums

PENALTIES = ("l1", "group")

STRENGTH = 0.5
"""What the penalty of the given network is, whatever its weights and widths are: as much as a loss of about that."""

GROWTH = 4
"""The least channel of a group is penalised 2⁴ times as strongly as the largest (DepGraph, section 3.3)."""

TINY = 1e-12  # under the root, whose slope at zero is infinite


@dataclass(frozen=True, eq=False)
class _View:
    """Where a parameter holds the channels of a group; see `importance.GroupSlice`."""

    parameter: str
    dim: int
    rows: Tensor
    channels: Tensor


@dataclass(frozen=True, eq=False)
class _Group:
    views: Sequence[_View]
    weights: Tensor
    """(channels,): how much of its size each channel adds to the penalty."""


@dataclass(frozen=True, eq=False)
class Penalty:
    """A penalty on the loss of a network; it can be pickled and holds no network."""

    kind: str
    groups: Sequence[_Group]

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the penalty of a network with the same parameters as the original; a scalar."""
        parameters = dict(model.named_parameters())
        sizes = (_sizes(self.kind, group.views, len(group.weights), parameters) for group in self.groups)
        terms = [(group.weights * size).sum() for group, size in zip(self.groups, sizes, strict=True)]
        return STRENGTH * torch.stack(terms).mean()


def sparsity_penalty(kind: str, model: nn.Module, names: Iterable[str], examples: Inputs) -> Penalty:
    """Return a penalty on the channels of some groups of a network; the network is not changed.

    ``l1`` is the L1 norm of the scales of a group's batch norms (Liu et al., Network Slimming, ICCV 2017, section
    3), or of the weights that write its channels where it has none. ``group`` is the group lasso over whole channels,
    with all that writes, scales and reads them (Wen et al., NeurIPS 2016, section 3; Fang et al., DepGraph, CVPR 2023,
    section 3.3), and more of it on channels that are small already. Both are relative to what the given network has.

    Args:
        kind: one of `PENALTIES`.
        model: the network before it is trained and pruned.
        names: root layers of the groups.
        examples: inputs to trace the network with, batch first.

    Raises:
        InfeasibleError: there is no such penalty.

    """
    if kind not in PENALTIES:
        raise InfeasibleError(f"penalty must be none or one of {', '.join(PENALTIES)}, got {kind!r}", rung="build")
    traced = copied(model)
    graph = dependency_graph(traced, examples)
    modules, parameters = dict(traced.named_modules()), dict(traced.named_parameters())
    known = {parameter: name for name, parameter in parameters.items()}
    groups = []
    for name in names:
        count = out_channels(modules[name])
        held = group_slices(graph, channel_group(graph, modules[name], list(range(count))))
        views = [_View(known[part.weight], part.dim, part.rows, part.channels) for part in _chosen(kind, held)]
        with torch.no_grad():
            sizes = _sizes(kind, views, count, parameters)
            weights = _growth(sizes) if kind == "group" else torch.ones_like(sizes)
            total = (weights * sizes).sum()
        groups.append(_Group(views, weights / total))
    return Penalty(kind, groups)


def _chosen(kind: str, held: Sequence[GroupSlice]) -> Sequence[GroupSlice]:
    if kind == "group":
        return held
    norms = [part for part in held if isinstance(part.layer, nn.modules.batchnorm._BatchNorm)]
    return norms or [part for part in held if not part.reads and not part.norm]


def _sizes(kind: str, views: Sequence[_View], count: int, parameters: dict[str, nn.Parameter]) -> Tensor:
    """Return one number for each channel: its L1 or its L2 norm."""
    values = (select(parameters[view.parameter], view.dim, view.rows) for view in views)
    powers = (value.abs() if kind == "l1" else value.square() for value in values)
    total = torch.stack([sums(p, v.channels, count) for p, v in zip(powers, views, strict=True)]).sum(0)
    return total if kind == "l1" else (total + TINY).sqrt()


def _growth(sizes: Tensor) -> Tensor:
    """Return factors from 1 to 2^`GROWTH`, the largest for the smallest size."""
    span = (sizes.max() - sizes.min()).clamp_min(TINY)
    return 2 ** (GROWTH * (sizes.max() - sizes) / span)
