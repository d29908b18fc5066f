"""Estimates from gradients how much the outputs depend on each layer, for choices that there was no time to try."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..spaces.candidate import PRUNING_RATIO
from ..spaces.layers import Network
from ..spaces.space import Choice

DIRECTIONS = 4
"""Random combinations of the outputs whose gradients are taken, for each batch."""

ENOUGH = 4
"""Choices of an axis that must have been tried before a law is fitted to them."""

Known = tuple[float, float]
"""Saliency and damage of a choice that was tried."""


def saliencies(model: nn.Module, batches: Sequence[tuple[Tensor, ...]], *, seed: int = 0) -> dict[str, float]:
    """Return for each layer the squared change of the outputs if its weights were removed, to second order.

    This is the sum of w²·h over its weights, where h is the diagonal of JᵀJ, the Hessian of the outputs' squared change
    (Optimal Brain Damage: LeCun et al., NIPS 1989), estimated by gradients of the outputs times random signs
    (Hutchinson's estimator of a diagonal: Bekas et al., Applied Numerical Mathematics 2007).

    Args:
        model: the network, in its evaluation mode; it is not changed.
        batches: its inputs.
        seed: seed of the signs.

    Raises:
        RuntimeError: the outputs have no gradient.

    """
    random = torch.Generator().manual_seed(seed)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: defaultdict[str, float] = defaultdict(float)
    for inputs in batches:
        with torch.enable_grad():
            outputs = model(*inputs)
            for left in reversed(range(DIRECTIONS)):
                signs = 2.0 * torch.randint(2, outputs.shape, generator=random).to(outputs) - 1.0
                gradients = torch.autograd.grad(
                    outputs, list(named.values()), signs, retain_graph=left > 0, allow_unused=True
                )
                for (name, weights), gradient in zip(named.items(), gradients, strict=True):
                    if gradient is not None:
                        found[name.rpartition(".")[0]] += float((weights.detach() * gradient).square().sum())
    return {name: total / DIRECTIONS for name, total in found.items()}


def saliency_of(choice: Choice, by_layer: dict[str, float], network: Network) -> float:
    """Return the saliency of a choice: of its layer, of all that lose channels together, or of a branch's."""
    members = {group.name: group.members for group in network.groups} if choice.axis == PRUNING_RATIO else {}
    layers = members.get(choice.target) or network.reached(choice.axis, choice.target)
    return sum(by_layer.get(name, 0.0) for name in layers)


def stand_in(tried: Sequence[Known], saliency: float) -> float:
    """Return the likely damage of a choice with some saliency, by a power law through the tried choices.

    The power is the median of those between any two choices (Theil and Sen), because some layers are far off any law.
    With too few tried choices, or an unknown saliency, it is their median damage; infinite if none has a finite damage.

    >>> [round(stand_in([(1, 2), (4, 4), (9, 6), (16, 8)], saliency), 3) for saliency in (25.0, 0.0)]
    [10.0, 5.0]
    """
    finite = [(known, damage) for known, damage in tried if math.isfinite(damage)]
    positive = [(known, damage) for known, damage in finite if known > 0 and damage > 0]
    if saliency <= 0 or len(positive) < ENOUGH:
        return statistics.median([damage for _, damage in finite] or [float("inf")])
    x, y = np.log(np.array(positive)).T
    one, other = np.triu_indices(len(x), 1)
    apart = x[one] != x[other]
    slopes = (y[one] - y[other])[apart] / (x[one] - x[other])[apart]
    power = float(np.clip(np.median(slopes), 0.0, 1.0)) if apart.any() else 0.0  # more salient layers do more damage
    return math.exp(float(np.median(y - power * x)) + power * math.log(saliency))
