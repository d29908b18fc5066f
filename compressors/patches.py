"""What a layer multiplies its weight by, at a sample of positions."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .modules import TRANSPOSED

ROWS = 1024
"""Positions of a batch that are taken at most."""

WORK = 1e9
"""Multiply-accumulates of a layer's products above which fewer positions are taken: a tenth of a second."""


def width_of(layer: nn.Module) -> int:
    """Return how many inputs an output of a convolution or a linear layer has."""
    return math.prod(cast(Tensor, layer.weight).shape[1:])


def rows_for(width: int, *, fewest: int, most: int) -> int:
    """Return how many rows a matrix of products of inputs is made of: fewer for wide layers, whose work it bounds.

    Args:
        width: inputs of an output.
        fewest: rows for each of them that there are at least.
        most: rows otherwise.
    """
    return math.ceil(max(fewest * width, min(most, WORK / width**2)))


def patches(layer: nn.Module, x: Tensor, positions: Tensor | None = None, *, most: int = ROWS) -> Tensor | None:
    """Return inputs of a layer, of shape (groups, rows, inputs / groups · kernel), at some positions of its output.

    The result is None for a transposed convolution.

    Args:
        layer: a convolution or a linear layer.
        x: what it is given.
        positions: numbers of the positions; None draws some at random, the same each time.
        most: how many are drawn at most.
    """
    if isinstance(layer, nn.Linear):
        rows = x.reshape(-1, x.shape[-1])
        return rows[_drawn(len(rows), most) if positions is None else positions][None]
    if isinstance(layer, TRANSPOSED):
        return None
    return _patches(layer, x, positions, most)


def _patches(layer: nn.Module, x: Tensor, positions: Tensor | None, most: int) -> Tensor:
    kernel, stride, dilation, groups = (getattr(layer, n) for n in ("kernel_size", "stride", "dilation", "groups"))
    if x.dim() == len(kernel) + 1:
        x = x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padding: list[int] = layer._reversed_padding_repeated_twice  # type: ignore[assignment]  # what such a convolution pads with, whatever it was given
    if any(padding):
        x = functional.pad(x, padding, mode=str(mode))
    sizes = [
        (size - far * (width - 1) - 1) // step + 1
        for size, width, step, far in zip(x.shape[2:], kernel, stride, dilation, strict=True)
    ]
    drawn = _drawn(len(x) * math.prod(sizes), most) if positions is None else positions
    x = x.movedim(1, -1).contiguous()  # the channels of a place side by side
    example, *places = torch.unravel_index(drawn, (len(x), *sizes))
    found = []
    for offset in torch.cartesian_prod(*(torch.arange(width) for width in kernel)).reshape(-1, len(kernel)).tolist():
        at = [p * step + o * far for p, step, o, far in zip(places, stride, offset, dilation, strict=True)]
        found.append(x[(example, *at)])
    return torch.stack(found, 2).reshape(len(drawn), groups, -1).transpose(0, 1)


def _drawn(count: int, most: int) -> Tensor:
    if count <= most:
        return torch.arange(count)
    return torch.randint(count, (most,), generator=torch.Generator().manual_seed(0))
