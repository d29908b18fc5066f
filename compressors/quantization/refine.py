"""Weights that are rounded with an eye on the outputs: they make up for each other, and the bias for their mean.

What is collected while ranges are calibrated is enough for that: the mean and the products of each layer's inputs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..modules import grouped
from ..patches import ROWS, patches, rows_for, width_of
from .calibration import pair_sums
from .compensated import round_compensated
from .quantizers import WeightQuantizer

FEWEST = 4
"""Rows of a Gram matrix for each of its inputs, at least, if there are as many."""

MOST = 2048
"""Inputs of an output up to which there is a Gram matrix, which is as wide and as high."""

RIDGE = 1e-5
"""What is added to the diagonal of a Gram matrix around its mean, for the digits lost, as a share of that without."""

MARGIN = 3
"""Pairs of weights so many steps below the largest are not moved, so that none comes to exceed it."""


class Rounding(Protocol):
    """A module that rounds the weight of a layer."""

    layer: nn.Module
    round_weight: WeightQuantizer

    @property
    def weight(self) -> Tensor:
        """The layer's weight."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        ...

    def steps(self) -> Tensor:
        """Return the steps of its weight."""
        ...

    def rounded_weight(self) -> Tensor:
        """Return its weight on the steps."""
        ...


class Gram:
    """The mean of a layer's inputs, and of their products, over all that came."""

    def __init__(self) -> None:
        self.rows = 0
        self.sums: Any = 0.0
        self.products: Any = 0.0

    def add(self, rows: Tensor) -> None:
        """Add inputs of shape (groups, rows, inputs)."""
        self.rows += rows.shape[1]
        self.sums = self.sums + rows.sum(1)
        self.products = self.products + rows.transpose(1, 2) @ rows

    @property
    def mean(self) -> Tensor:
        """The mean of the inputs, of shape (groups, inputs)."""
        mean: Tensor = self.sums / self.rows
        return mean

    def matrix(self, *, centred: bool) -> Tensor:
        """Return the mean products, of shape (groups, inputs, inputs), of inputs or of their distances to the mean."""
        products: Tensor = self.products / self.rows
        if not centred:
            return products
        lost = RIDGE * products.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
        return products - self.mean[:, :, None] * self.mean[:, None] + torch.diag_embed(lost.expand_as(self.mean))


@contextmanager
def watched(layers: Mapping[str, nn.Module], batches: int) -> Iterator[dict[str, Gram]]:
    """Collect the inputs of quantized layers that run inside the context on a number of batches."""
    grams: dict[str, Gram] = {}

    def see(name: str, layer: nn.Module, x: Tensor) -> None:
        wanted = rows_for(width_of(layer), fewest=FEWEST, most=ROWS * batches)
        rows = patches(layer, x.detach(), most=min(ROWS, math.ceil(wanted / batches)))
        if rows is not None and rows.shape[2] <= MOST:
            grams.setdefault(name, Gram()).add(rows)

    hooks = [
        module.register_forward_pre_hook(lambda m, inputs, name=name: see(name, m.layer, inputs[0]))
        for name, module in layers.items()
    ]
    try:
        yield grams
    finally:
        for hook in hooks:
            hook.remove()


def round_weights(layers: Mapping[str, Rounding], grams: Mapping[str, Gram]) -> None:
    """Round the weights of layers in place, to numbers that their quantizers leave as they are.

    Layers that share a weight keep it, as do layers without a Gram matrix.
    """
    times = Counter(id(module.weight) for module in layers.values())
    for name, gram in grams.items():
        if times[id(layers[name].weight)] == 1:
            _round(layers[name], gram)


@torch.no_grad()
def _round(module: Rounding, gram: Gram) -> None:
    weight = grouped(module.layer)
    before = weight.flatten(2).clone()
    steps = module.steps()
    rows = steps.reshape(*before.shape[:2], -1)
    each = rows.repeat_interleave(before.shape[2] // rows.shape[2], 2)
    matrix = gram.matrix(centred=module.bias is not None)
    found = round_compensated(before, matrix, each, module.round_weight.top, _kept(module, steps))
    weight.copy_(found.reshape(weight.shape))
    same = torch.isclose(module.steps(), steps, rtol=1e-5, atol=0).reshape(rows.shape).all(2, keepdim=True)
    weight.copy_(torch.where(same, found, before).reshape(weight.shape))
    if module.bias is not None:
        lost = before - module.rounded_weight().reshape(before.shape)
        module.bias.add_((lost @ gram.mean[:, :, None]).flatten())


def _kept(module: Rounding, steps: Tensor) -> Tensor | None:
    """Return which weights decide the steps together with a neighbour, as `pair_sums` has them; None without pairs."""
    if not module.round_weight.narrow:
        return None
    weight = module.weight.detach().movedim(1, -1)
    sums = pair_sums(weight).abs()
    apart = 1 if weight.shape[-1] % 2 else 2
    near = sums > (module.round_weight.top - MARGIN) * steps[:, None]
    kept = torch.zeros(len(weight), weight[0].numel(), dtype=torch.bool, device=weight.device)
    kept[:, :-1:apart] |= near
    kept[:, 1::apart] |= near
    return kept.reshape(weight.shape).movedim(-1, 1).reshape(grouped(module.layer).flatten(2).shape)
