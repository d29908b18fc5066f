"""Unstructured and 2:4 sparsity: weights that are zero and stay zero.

In the pattern 2:4 the two smaller of every four weights side by side along the input channels go, which sparse tensor
cores skip (Mishra et al., arXiv:2104.08378, section 3). Unstructured, the smallest weights of a layer go (Han et al.,
NeurIPS 2015): that saves bytes where zeros are stored in less, and no time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import InfeasibleError
from ...spaces.candidate import SPARSITY, Candidate, Value
from ...spaces.capabilities import Capabilities
from ...spaces.layers import Layer, Network
from ...spaces.space import Choice, Conflict
from ...studies.networks.copied import copied
from ..modules import parts
from ..onnx_files.number_formats import sparsened
from ..technique import Supplies, Technique, undivided

TWO_FOUR = "2:4"
"""The pattern of two zeros in every four."""

FOUR = 4


class Sparsify(Technique):
    """Sets the smallest weights of layers to zero."""

    axis = SPARSITY

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer each layer the shares and patterns that speed up the runtime and fit its shape."""
        found = []
        for layer in network.layers:
            levels = tuple(level for level in capabilities.sparsity if _fits(layer, level))
            if levels:
                found.append(Choice(axis=self.axis, target=layer.name, levels=(0.0, *levels), neutral=0.0))
        return tuple(found)

    def conflicts(self, network: Network, choices: Sequence[Choice]) -> Iterator[Conflict]:
        """Yield the pruning that leaves a layer inputs which no four divides."""
        return undivided(self.axis, TWO_FOUR, FOUR, network, choices)

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy in which the chosen weights are zero.

        Of a factorised layer, each part gets the level. In the pattern 2:4, parts whose inputs no four divides
        (depthwise ones, mostly) stay as they are, so long as there is one that is not.

        Raises:
            InfeasibleError: the network has no such layer, or one without a weight; or the layer's inputs are no
                multiple of four.

        """
        model = copied(model)
        for name, level in candidate[self.axis].items():
            layers = [layer for _, layer in parts(model, name)]
            if not all(isinstance(getattr(layer, "weight", None), Tensor) for layer in layers):
                raise InfeasibleError(f"the layer {name!r} has no weight of which a part could be zero", rung="build")
            weights = [cast(Tensor, layer.weight).detach() for layer in layers]
            if level == TWO_FOUR:
                _to_two_four(name, weights)
            elif level:
                for weight in weights:
                    weight.mul_(largest(weight, float(level)))
        return model

    @contextmanager
    def hold(self, model: nn.Module, candidate: Candidate) -> Iterator[None]:
        """Keep zeros zero: they get no gradient, so that no elementwise optimizer moves them."""
        found = (part for name, level in candidate[self.axis].items() if level for part in parts(model, name))
        weights = {weight for _, part in found if isinstance(weight := part.weight, nn.Parameter)}
        hooks = [_hooked(weight) for weight in weights if weight.requires_grad]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _hooked(weight: Tensor) -> RemovableHandle:
    handle: RemovableHandle = weight.register_hook(_Mask(weight))  # type: ignore[no-untyped-call]
    return handle


class _Mask:
    """Passes gradients only where a weight is nonzero."""

    def __init__(self, weight: Tensor) -> None:
        self.kept = weight.detach() != 0

    def __call__(self, gradient: Tensor) -> Tensor:
        return gradient * self.kept.to(gradient.device)


def largest(weight: Tensor, sparsity: float) -> Tensor:
    """Return a mask of a weight's shape that is false for its smallest values; of equal ones, the first.

    Args:
        weight: of any shape.
        sparsity: the share that is left out, rounded to whole numbers; between 0 and 1.

    >>> largest(torch.tensor([3.0, -1.0, 2.0, -4.0]), 0.5).tolist()
    [True, False, False, True]
    """
    order = weight.detach().abs().flatten().argsort(stable=True)
    mask = torch.ones_like(order, dtype=torch.bool)
    mask[order[: round(sparsity * weight.numel())]] = False
    return mask.reshape(weight.shape)


def _fits(layer: Layer, level: Value) -> bool:
    if not layer.shape:
        return False
    return layer.shape[1] % FOUR == 0 and not layer.transposed if level == TWO_FOUR else True


def _to_two_four(name: str, weights: list[Tensor]) -> None:
    """Apply the 2:4 pattern in place to the weights whose inputs are a multiple of four."""
    fitting = [weight for weight in weights if weight.shape[1] % FOUR == 0]
    if not fitting:
        inputs = " and ".join(str(weight.shape[1]) for weight in weights)
        raise InfeasibleError(f"2:4 needs a multiple of 4 inputs; the layer {name!r} has {inputs}", rung="build")
    for weight in fitting:
        weight.copy_(torch.from_numpy(sparsened(weight.cpu().numpy(), 1)))
