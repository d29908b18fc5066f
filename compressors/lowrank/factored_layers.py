"""The layers that replace a factorised one, built from a low-rank approximation of its weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..modules import always_called
from . import decompositions as lowrank

LOOKED_AT = (
    "in_features",
    "out_features",
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
)
"""What a module may ask its layers, besides their weight and bias."""


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

OF_DIMENSIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Factorized(nn.Sequential):
    """Replaces one layer by several, and keeps its attributes: some modules read them from their layers.

    Args:
        layer: the layer that they replace.
        factors: the layers.
    """

    __jit_unused_properties__ = ("weight", "bias")

    def __init__(self, layer: nn.Module, factors: Sequence[nn.Module]) -> None:
        super().__init__(*factors)
        for name in LOOKED_AT:
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))
        self.train(layer.training)
        always_called(self)

    @property
    def weight(self) -> Tensor:
        """The weight of one layer that computes the same: (out, in), or (out, in, …)."""
        product, *others = (cast(Tensor, factor.weight) for factor in self)
        for weight in others:
            if weight.dim() == 2:
                product = weight @ product
            elif weight.shape[1] == 1 != len(product):  # depthwise
                product = weight * product
            else:  # one of the two is 1×1
                product = torch.einsum("oc...,ci...->oi...", weight, product)
        return product

    @property
    def bias(self) -> Tensor | None:
        """The bias of the last layer."""
        return cast("Tensor | None", self[-1].bias)


def linear_factors(layer: nn.Module, rank: int) -> list[nn.Module]:
    """Return two linear layers of a given rank that replace one."""
    left, right = lowrank.svd(cast(Tensor, layer.weight).detach(), rank)
    return [_linear(right), _linear(left, cast("Tensor | None", layer.bias))]


def pointwise_factors(layer: Convolution, rank: int) -> list[nn.Module]:
    """Return two 1×1 convolutions of a given rank that replace one; the first has its stride."""
    left, right = lowrank.svd(layer.weight.detach().flatten(1), rank)
    return [_conv(_pointwise(right, layer), **_steps(layer)), _conv(_pointwise(left, layer), layer.bias)]


def tucker_factors(
    layer: Convolution, rank_out: int, rank_in: int, *, sweeps: int = lowrank.TUCKER_SWEEPS
) -> list[nn.Module]:
    """Return a convolution with fewer channels between two 1×1 convolutions, which replace a larger one."""
    out, core, inner = lowrank.tucker2(layer.weight.detach(), rank_out, rank_in, sweeps=sweeps)
    first, last = _conv(_pointwise(inner.T, layer)), _conv(_pointwise(out, layer), layer.bias)
    return [first, _conv(core, **_steps(layer)), last]


def cp_factors(layer: Convolution, rank: int) -> list[nn.Module]:
    """Return 1×1 convolutions of a rank around depthwise ones, one along a kernel's height and one along its width.

    Of a kernel that is not an area, one depthwise convolution says it all.
    """
    kernel, area = layer.weight.detach(), is_area(layer)
    found = lowrank.cp(kernel if area else kernel.flatten(2).unsqueeze(2), rank)
    down, across = found.rows.T[:, None, :, None], found.columns.T[:, None, None, :]
    if area:
        spatial = [_conv(kernel, groups=rank, **_steps(layer, axis)) for axis, kernel in enumerate((down, across))]
    else:
        spatial = [_conv((down * across).reshape(rank, 1, *layer.kernel_size), groups=rank, **_steps(layer))]
    return [_conv(_pointwise(found.inner.T, layer)), *spatial, _conv(_pointwise(found.out, layer), layer.bias)]


def is_area(layer: Convolution) -> bool:
    """Whether a convolution's kernel has a height and a width, neither of them 1."""
    return len(layer.kernel_size) == 2 and 1 not in layer.kernel_size


def _pointwise(matrix: Tensor, layer: Convolution) -> Tensor:
    """Return a matrix (out, in) as the weight of a 1×1 convolution with as many dimensions as a layer's."""
    return matrix[(..., *[None] * len(layer.kernel_size))]


def _steps(layer: Convolution, *axes: int) -> dict[str, Any]:
    """Return a convolution's stride, padding and dilation along some dimensions, neutral along the others."""

    def along(values: Sequence[int], still: int) -> tuple[int, ...]:
        return tuple(value if axis in axes or not axes else still for axis, value in enumerate(values))

    return {
        "stride": along(layer.stride, 1),
        "padding": layer.padding if isinstance(layer.padding, str) else along(layer.padding, 0),
        "dilation": along(layer.dilation, 1),
        "padding_mode": layer.padding_mode,
    }


def _conv(weight: Tensor, bias: Tensor | None = None, **options: Any) -> nn.Module:
    out, inner, *size = weight.shape
    kind, inputs = OF_DIMENSIONS[len(size)], inner * options.get("groups", 1)
    return _filled(kind(inputs, out, tuple(size), bias=bias is not None, device="meta", **options), weight, bias)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    shape = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, device="meta")
    return _filled(shape, weight, bias)


def _filled(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
