"""Importance of channels: scores of the channels of a dependency group, by several methods.

A channel lives in several layers: those that write it, the norms that scale it, and those that read it (Fang et al.,
DepGraph, CVPR 2023, section 3.3). `group_slices` finds where; the methods differ in what they make of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ...errors import InfeasibleError, blaming
from ...studies.random_states import seeded
from ..modules import evaluating, out_channels
from ..technique import Supplies
from .dependency_groups import channel_group

IMPORTANCES = ("magnitude", "l1", "taylor", "hessian", "bn_scale", "lamp", "median")
"""The methods by name, the default first."""

FROM_GRADIENTS = ("taylor", "hessian")
"""The methods that need batches of data and a loss."""

FROM_NORMS = "bn_scale"
"""The method that needs a batch norm in each group."""

Score = Callable[[str], Tensor]
"""Maps the name of a group's root to one score for each of its channels, (channels,); the least goes first."""


@dataclass(frozen=True, eq=False)
class Gradients:
    """What is kept of the gradients of many batches.

    Attributes:
        changes: for each batch and parameter, Σ parameter × gradient at each position along its first dimension, and
            along its second where it has one.
        squares: for each parameter, the mean over batches of its squared gradient.

    """

    changes: Sequence[Mapping[nn.Parameter, Sequence[Tensor]]] = ()
    squares: Mapping[nn.Parameter, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class GroupSlice:
    """Where a layer holds the channels of a group.

    Attributes:
        layer: a convolution, a linear layer, or a norm that scales channels.
        reads: whether it reads the channels; otherwise it writes or scales them.
        dim: the dimension of its weight along which the channels lie.
        rows: (rows,) their positions along it.
        channels: (rows,) for each position the channel of the group's root; a layer after a flattening reads a
            channel at several.

    """

    layer: nn.Module
    reads: bool
    dim: int
    rows: Tensor
    channels: Tensor

    @property
    def weight(self) -> nn.Parameter:
        """The layer's weight."""
        return cast(nn.Parameter, self.layer.weight)

    @property
    def norm(self) -> bool:
        """Whether the layer scales channels one by one."""
        return self.weight.dim() == 1

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield what goes with a channel: the weight, and the bias of a layer that writes the channel."""
        yield self.weight
        if not self.reads and self.layer.bias is not None:
            yield cast(nn.Parameter, self.layer.bias)


def select(tensor: Tensor, dim: int, rows: Tensor) -> Tensor:
    """Return the entries at some positions of a dimension, (rows, entries); a bias lies along dimension 0."""
    return tensor.transpose(0, dim)[rows].reshape(len(rows), -1)


def sums(values: Tensor, channels: Tensor, count: int) -> Tensor:
    """Return values (rows,) or (rows, entries) summed over each channel, (count,)."""
    return values.new_zeros(count).index_add(0, channels, values.reshape(len(channels), -1).sum(1))


def group_slices(graph: Any, group: Any) -> list[GroupSlice]:
    """Return the convolutions, linear layers and norms of a whole dependency group that have weights.

    Convolutions of several groups that read the channels are left out: none of their weights' dimensions has them all.
    """
    found = []
    for dep, rows, channels in ((item.dep, item.idxs, item.root_idxs) for item in group):
        layer, reads = dep.target.module, not graph.is_out_channel_pruning_fn(dep.handler)
        if not isinstance(layer, (_ConvNd, nn.Linear, _BatchNorm, nn.LayerNorm)) or layer.weight is None:
            continue
        if None in channels:  # what is not of the root's making
            continue
        if isinstance(layer, _ConvNd) and reads and 1 < layer.groups < layer.in_channels:
            continue
        dim = 0
        if isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and layer.groups == 1):
            dim = int(reads != getattr(layer, "transposed", False))
        device = layer.weight.device
        where = (torch.tensor(list(indices), device=device) for indices in (rows, channels))
        found.append(GroupSlice(layer, reads, dim, *where))
    return found


def scorer(importance: str, model: nn.Module, graph: Any, supplies: Supplies) -> Score:
    """Return a function that scores the channels of a network's groups.

    ``magnitude`` and ``l1``: the L2 and L1 norm over all parts of the group (Fang et al., DepGraph, CVPR 2023,
    section 3.3). ``taylor``: the squared first-order change of the loss when all readers see zeros in place of the
    channel, that is the gradient of a gate on it (Molchanov et al., CVPR 2019, section 3). ``hessian``: half of
    weight² × curvature, summed over the group (LeCun et al., Optimal Brain Damage, NeurIPS 1989), with the mean
    squared gradient of batches for the curvature (the diagonal of the empirical Fisher matrix). ``bn_scale``: the size
    of the batch norms' scales (Liu et al., Network Slimming, ICCV 2017, section 3). ``lamp``: squared magnitude
    relative to what the layer keeps if weaker channels go (Lee et al., ICLR 2021, section 2), summed over the layers.
    ``median``: distance of what writes the channel from all others, so that the one nearest to the geometric median
    is replaced by its like (He et al., FPGM, CVPR 2019, section 3).

    Args:
        importance: one of `IMPORTANCES`.
        model: the network; its gradients are those of its weights as they are at this call.
        graph: its dependencies; see `dependency_graph`.
        supplies: batches and loss for the methods in `FROM_GRADIENTS`.

    Raises:
        InfeasibleError: the method does not exist, or there is not what it needs.

    """
    if importance not in IMPORTANCES:
        raise InfeasibleError(f"importance must be one of {', '.join(IMPORTANCES)}, got {importance!r}", rung="build")
    modules = dict(model.named_modules())
    gradients = _gradients(model, supplies, importance) if importance in FROM_GRADIENTS else Gradients()

    def score(name: str) -> Tensor:
        count = out_channels(modules[name])
        group = channel_group(graph, modules[name], list(range(count)))
        if importance in LIBRARY:
            scores = LIBRARY[importance](group)
        else:
            with torch.no_grad():
                scores = OURS[importance](group_slices(graph, group), count, gradients)
        if scores is None:
            reason = f"importance {importance!r} needs batch norms, and the group of {name!r} has none"
            raise InfeasibleError(reason, rung="build")
        return scores

    return score


def _gradients(model: nn.Module, supplies: Supplies, importance: str) -> Gradients:
    """Return the gradients of each batch's loss in evaluation mode; the parameters keep none."""
    if not supplies.batches:
        raise InfeasibleError(f"importance {importance!r} needs batches of training data, got none", rung="build")
    parameters = list(model.parameters())
    changes: list[Mapping[nn.Parameter, Sequence[Tensor]]] = []
    squares = {p: torch.zeros_like(p) for p in parameters}
    with evaluating(model), torch.enable_grad(), seeded(0):
        for batch in supplies.batches:
            with blaming("loss"):
                loss = supplies.loss(model, batch)
            if not torch.isfinite(loss):
                reason = f"importance {importance!r} needs a finite loss of the network that is pruned, got {loss:g}"
                raise InfeasibleError(reason, rung="build")
            found = torch.autograd.grad(loss, parameters, materialize_grads=True)
            with torch.no_grad():
                changes.append({p: _along(p * g) for p, g in zip(parameters, found, strict=True)})
                for p, g in zip(parameters, found, strict=True):
                    squares[p] += g.square() / len(supplies.batches)
    return Gradients(changes, squares)


def _along(product: Tensor) -> Sequence[Tensor]:
    """Return a tensor's sums at each position of its first dimension, and of its second where it has one."""
    return [product.transpose(0, dim).flatten(1).sum(1) if product.dim() > 1 else product for dim in range(2)]


def _taylor(group: Sequence[GroupSlice], count: int, gradients: Gradients) -> Tensor:
    """Return for each channel the mean over batches of (Σ weight × gradient)² over its readers.

    The sum is the derivative of the loss by a factor on all that is read of the channel. Where no layer reads it, the
    factor is on what is written.
    """
    readers = [part for part in group if part.reads] or [part for part in group if not part.norm]
    squares = []
    for changes in gradients.changes:
        change = sum(
            sums(changes[p][part.dim if p is part.weight else 0][part.rows], part.channels, count)
            for part in readers
            for p in part.parameters()
        )
        squares.append(cast(Tensor, change).square())
    return torch.stack(squares).mean(0)


def _hessian(group: Sequence[GroupSlice], count: int, gradients: Gradients) -> Tensor:
    total = group[0].weight.new_zeros(count)
    for part in group:
        for p in part.parameters():
            saliency = 0.5 * p.square() * gradients.squares[p]
            total += sums(select(saliency, part.dim if p is part.weight else 0, part.rows), part.channels, count)
    return total


def _lamp(group: Sequence[GroupSlice], count: int, _: Gradients) -> Tensor:
    """Return the channels' scores in each layer, summed; the library's, of the summed magnitudes, order as those do."""
    total = group[0].weight.new_zeros(count)
    for part in group:
        if not part.norm:
            squares = sums(select(part.weight, part.dim, part.rows).square(), part.channels, count)
            order = squares.argsort(stable=True)
            rest = squares[order].flip(0).cumsum(0).flip(0)
            total[order] += squares[order] / rest.clamp_min(torch.finfo(rest.dtype).tiny)
    return total


def _median(group: Sequence[GroupSlice], count: int, _: Gradients) -> Tensor:
    """Return for each channel the sum of its filter's distances to all; the library's compares squared weights."""
    writers = [part for part in group if not part.reads and not part.norm]
    rows = (select(part.weight, part.dim, part.rows[part.channels.argsort(stable=True)]) for part in writers)
    filters = torch.cat([weights.reshape(count, -1) for weights in rows], 1)
    return torch.cdist(filters, filters).sum(1)


LIBRARY: dict[str, Callable[[Any], Tensor | None]] = {
    "magnitude": torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "l1": torch_pruning.importance.GroupMagnitudeImportance(p=1),
    FROM_NORMS: torch_pruning.importance.BNScaleImportance(),
}
OURS: dict[str, Callable[[Sequence[GroupSlice], int, Gradients], Tensor]] = {
    "taylor": _taylor,
    "hessian": _hessian,
    "lamp": _lamp,
    "median": _median,
}
