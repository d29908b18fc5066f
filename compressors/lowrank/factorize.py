"""Low-rank factorization: a layer becomes a chain of two, three or four smaller ones.

A linear layer or a 1×1 convolution becomes two by singular value decomposition (Denton et al., NeurIPS 2014). A larger
convolution becomes 1×1, k×k and 1×1 by Tucker-2 (Kim et al., ICLR 2016), or 1×1, k×1, 1×k and 1×1, those in the middle
depthwise, by a canonical polyadic decomposition, CP (Lebedev et al., ICLR 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn

from ...errors import InfeasibleError
from ...spaces.candidate import FACTORIZATION, RANK, Candidate
from ...spaces.capabilities import Capabilities
from ...spaces.layers import Layer, Network
from ...spaces.space import Choice
from ...studies.networks.copied import copied
from ..modules import LAYERS, TRANSPOSED, count, multiplies, stride
from ..technique import Supplies, Technique
from ..tied import put, shared_with
from . import decompositions as lowrank
from .factored_layers import (
    Convolution,
    Factorized,
    cp_factors,
    is_area,
    linear_factors,
    pointwise_factors,
    tucker_factors,
)

LEVELS = (0.75, 0.5, 0.375, 0.25, 0.125)
"""Shares of the rank that may stay, mild to strong."""

LEAST = 8
"""Fewest channels on either side of a layer that is offered."""

MULTIPLE = 8
"""Ranks are multiples of this, as kernels like it; of less where that would be more than a quarter of the channels."""

Ranks = tuple[int, ...]
"""The rank of a matrix, or the ranks of a kernel's output and input channels."""


class Factorize(Technique):
    """Replaces layers by products of smaller ones."""

    axis = RANK

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer each layer the shares of its rank at which the factors take fewer MACs than the layer."""
        offers = ((layer.name, levels(layer)) for layer in network.layers)
        return tuple(
            Choice(axis=self.axis, target=name, levels=(1.0, *shares), neutral=1.0) for name, shares in offers if shares
        )

    def settings(self) -> tuple[Choice, ...]:
        """Offer the decomposition of larger convolutions, and how ranks follow from a level.

        By ``"rank"`` a level is the share of the channels that stay; by ``"energy"`` the share of the squared singular
        values that must be kept, with the smallest rank that does. CP takes the rank at which it costs what Tucker-2
        would.
        """
        return (
            Choice(axis=FACTORIZATION, target="kind", levels=("tucker", "cp"), needs=self.axis),
            Choice(axis=FACTORIZATION, target="by", levels=("rank", "energy"), needs=self.axis),
        )

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy with the chosen layers factorised.

        No rank is so large that the factors would cost more than the layer: a level that asks for one gives less.

        Raises:
            InfeasibleError: there is no such layer, the network does not call it, it computes in a way of its own,
                its channels are in groups, it shares parameters, or no rank makes it cheaper.

        """
        model, chosen, settings = copied(model), candidate[self.axis], candidate[FACTORIZATION]
        called, shared = count(model, supplies.examples) if chosen else {}, shared_with(model)
        for name, level in chosen.items():
            modules = dict(model.named_modules(remove_duplicate=False))
            layer = modules.get(name)
            reason = _why_not(layer, called=name in called)
            if name in shared:
                reason = f"it shares parameters with {shared[name]}"
            if layer is None or reason:
                raise InfeasibleError(f"the layer {name!r} cannot be factorised: {reason}", rung="build")
            if level == 1:
                continue
            named = {name: str(value) for name, value in settings.items()}
            factors = factorized(layer, float(level), rough=supplies.rough, **named)
            if factors is None:
                shape = tuple(cast(Tensor, layer.weight).shape)
                raise InfeasibleError(
                    f"no rank makes the layer {name!r} cheaper, whose weight has the shape {shape}", rung="build"
                )
            put(model, name, factors)
        return model


def levels(layer: Layer) -> tuple[float, ...]:
    """Return the shares of a layer's rank to offer, mild to strong; each costs less than the one before.

    >>> levels(Layer(name="conv", kind="conv2d", params=0, macs=0, shape=(64, 64, 3, 3)))
    (0.75, 0.5, 0.375, 0.25, 0.125)
    >>> levels(Layer(name="linear", kind="linear", params=0, macs=0, shape=(64, 64)))
    (0.375, 0.25, 0.125)
    """
    if layer.transposed or not layer.shape or layer.groups != 1 or min(layer.shape[:2]) < LEAST:
        return ()
    found: list[float] = []
    least: float = math.prod(layer.shape)
    for share in LEVELS:
        cost = cost_of(layer.shape, ranks_of(layer.shape, share), layer.stride)
        if cost < least:
            found.append(share)
            least = cost
    return tuple(found)


def ranks_of(shape: Sequence[int], share: float) -> Ranks:
    """Return the ranks that keep a share of a weight's (out, in, …), as multiples that kernels like."""
    return tuple(_rounded(share * full, full) for full in _full(shape))


def cost_of(shape: Sequence[int], ranks: Ranks, stride: float = 1) -> float:
    """Return the multiply-accumulates of the factors of a weight, by SVD or Tucker-2, for one output position.

    Args:
        shape: (out, in), or (out, in, …).
        ranks: see `ranks_of`.
        stride: positions of the inputs for each of the outputs; the first factor of a kernel has to see them all.
    """
    out, inner = shape[:2]
    if len(ranks) == 1:
        return ranks[0] * (out + inner)
    return inner * ranks[1] * stride + ranks[0] * ranks[1] * math.prod(shape[2:]) + ranks[0] * out


def factorized(
    layer: nn.Module, share: float, *, kind: str = "tucker", by: str = "rank", rough: bool = False
) -> Factorized | None:
    """Return the factors of a linear layer or a convolution without groups, or None where no rank makes it cheaper.

    Args:
        layer: it is not changed.
        share: of its rank, or of the squared singular values of its weight.
        kind: ``"tucker"`` or ``"cp"``: how larger kernels are decomposed.
        by: ``"rank"`` or ``"energy"``: what the share is of.
        rough: whether Tucker-2 is taken as the higher-order SVD gives it, in a third of the time.

    """
    weight = cast(Tensor, layer.weight).detach()
    steps = stride(layer)
    from_mild = [ranks_of(weight.shape, level) for level in (*LEVELS, 0.0)]  # the last are the smallest there are
    affordable = [ranks for ranks in from_mild if cost_of(weight.shape, ranks, steps) < weight.numel()]
    if not affordable:
        return None
    wanted = _ranks_by_energy(weight, share) if by == "energy" else ranks_of(weight.shape, share)
    ranks = tuple(map(min, wanted, affordable[0]))
    if not isinstance(layer, Convolution):
        return Factorized(layer, linear_factors(layer, *ranks))
    if len(ranks) == 1:
        return Factorized(layer, pointwise_factors(layer, *ranks))
    if kind == "cp":
        return Factorized(layer, cp_factors(layer, _cp_rank(layer, cost_of(weight.shape, ranks, steps))))
    return Factorized(layer, tucker_factors(layer, *ranks, sweeps=0 if rough else lowrank.TUCKER_SWEEPS))


def _why_not(layer: nn.Module | None, *, called: bool) -> str | None:
    """Return why a layer cannot be factorised, or None."""
    if layer is None:
        return "the network has none"
    if not isinstance(layer, LAYERS):
        return f"it is a {type(layer).__name__}"
    if isinstance(layer, TRANSPOSED):
        return "transposed convolutions are not"
    if not called:
        return "the network does not call it, though it may use its weight"
    if not multiplies(layer):
        return "it computes in a way of its own"
    return "its channels are in groups" if getattr(layer, "groups", 1) > 1 else None


def _multiple(full: int) -> int:
    """Return the power of 2 that ranks for this many channels are multiples of."""
    return 1 << (min(MULTIPLE, max(1, full // 4)).bit_length() - 1)


def _full(shape: Sequence[int]) -> Ranks:
    """Return the full ranks of a weight."""
    (out, inner), positions = shape[:2], math.prod(shape[2:])
    if positions == 1:
        return (min(out, inner),)
    return min(out, inner * positions), min(inner, out * positions)


def _rounded(rank: float, full: int, towards: Callable[[float], int] = round) -> int:
    multiple = _multiple(full)
    return min(full, max(1, towards(rank / multiple)) * multiple)


def _ranks_by_energy(weight: Tensor, share: float) -> Ranks:
    """Return the smallest ranks that keep a share of the squared singular values, for each side of a kernel."""
    full = _full(weight.shape)
    sides = [lowrank.mode_values(weight, mode) for mode in range(len(full))]
    ranks = (lowrank.rank_for_energy(values, share) for values in sides)
    return tuple(_rounded(rank, most, math.ceil) for rank, most in zip(ranks, full, strict=True))


def _cp_rank(layer: Convolution, cost: float) -> int:
    """Return the largest rank whose factors cost at most so much for one output position, or the smallest rank."""
    out, inner, *size = layer.weight.shape
    spatial = size[0] * layer.stride[1] + size[1] if is_area(layer) else math.prod(size)
    each = inner * math.prod(layer.stride) + spatial + out
    multiple = _multiple(min(out, inner))
    return max(1, int(cost / each) // multiple) * multiple
