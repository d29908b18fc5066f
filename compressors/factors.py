"""The layers that take the place of one, and how they are made of a low-rank approximation of its weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from . import lowrank
from .graph import always_called

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


class Factorized(nn.Sequential):
    """Layers in the place of one, which can be asked what that one was asked: some modules look at their layers.

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
        """The weight of the layer that computes what these do: (out, in), or (out, in, height, width)."""
        product, *others = (cast(Tensor, factor.weight) for factor in self)
        for weight in others:
            if weight.dim() == 2:
                product = weight @ product
            elif weight.shape[1] == 1 != len(product):  # depthwise
                product = weight * product
            else:  # one of the two is 1×1
                product = torch.einsum("ocyx,ciyx->oiyx", weight, product)
        return product

    @property
    def bias(self) -> Tensor | None:
        """The bias of the last, which is the layer's."""
        return cast("Tensor | None", self[-1].bias)


def linear_factors(layer: nn.Module, rank: int) -> list[nn.Module]:
    """Return two linear layers of a rank in the place of one."""
    left, right = lowrank.svd(cast(Tensor, layer.weight).detach(), rank)
    return [_linear(right), _linear(left, cast("Tensor | None", layer.bias))]


def pointwise_factors(layer: nn.Conv2d, rank: int) -> list[nn.Module]:
    """Return two 1×1 convolutions of a rank in the place of one; the first takes its stride."""
    left, right = lowrank.svd(layer.weight.detach().flatten(1), rank)
    return [_conv(right[..., None, None], **_steps(layer)), _conv(left[..., None, None], layer.bias)]


def tucker_factors(layer: nn.Conv2d, rank_out: int, rank_in: int) -> list[nn.Module]:
    """Return a convolution of fewer channels between two of 1×1, in the place of a larger one."""
    out, core, inner = lowrank.tucker2(layer.weight.detach(), rank_out, rank_in)
    return [_conv(inner.T[..., None, None]), _conv(core, **_steps(layer)), _conv(out[..., None, None], layer.bias)]


def cp_factors(layer: nn.Conv2d, rank: int) -> list[nn.Module]:
    """Return 1×1 convolutions of a rank around depthwise ones, one along a kernel's height and one along its width."""
    found = lowrank.cp(layer.weight.detach(), rank)
    down, across = found.rows.T[:, None, :, None], found.columns.T[:, None, None, :]
    if 1 in layer.kernel_size:  # one says it all
        spatial = [_conv(down * across, groups=rank, **_steps(layer))]
    else:
        spatial = [_conv(kernel, groups=rank, **_steps(layer, axis)) for axis, kernel in enumerate((down, across))]
    return [_conv(found.inner.T[..., None, None]), *spatial, _conv(found.out[..., None, None], layer.bias)]


def _steps(layer: nn.Conv2d, *axes: int) -> dict[str, Any]:
    """Return how a convolution moves along its height (0), its width (1) or both, and stays still along the other."""

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
    shape = nn.Conv2d(
        inner * options.get("groups", 1), out, (size[0], size[1]), bias=bias is not None, device="meta", **options
    )
    return _filled(shape, weight, bias)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    shape = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, device="meta")
    return _filled(shape, weight, bias)


def _filled(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
