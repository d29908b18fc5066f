"""Linear quantization of weights and activations, simulated so that training can adapt to it.

In INT8 weights have one scale for each output channel, activations one scale for each layer's input, with a zero point
of its own where the runtime takes that. In INT4 a linear layer's weights have one scale for each block of those that
are summed up for one output, and its input stays in float. Rounding passes gradients straight through (Jacob et al.,
CVPR 2018). `qdq.py` writes the same scales into the ONNX file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from ...errors import InfeasibleError
from ...spaces.candidate import BITS, QUANTIZATION, Candidate
from ...spaces.capabilities import SYMMETRIC, Capabilities, Integers
from ...spaces.layers import Layer, Network
from ...spaces.space import Choice, Conflict
from ...studies.networks.copied import copied
from ...studies.task import have_a_batch
from ..batch_norm import fold_batch_norm
from ..modules import RECURRENT, TRANSPOSED, Inputs, always_called, multiplies, output_axis, parts, run, version
from ..technique import Supplies, Technique, undivided
from ..tied import put
from . import recurrent
from .calibration import DEFAULT, LARGEST_BIAS, MAX, METHODS, Grid
from .equalize import equalize
from .int4 import block_of
from .quantizers import ActivationQuantizer, WeightQuantizer
from .refine import round_weights, watched

FLOAT = 32
"""Bits of a layer that stays in floating point."""

WEIGHTS_ALONE = 4
"""Bits of a layer whose input stays in floating point."""

BLOCKS = (128, 16)
"""The most and the fewest weights that share a scale in INT4; runtimes' kernels take powers of 2 in between."""


@dataclass(frozen=True, eq=False)
class Scales:
    """The scales of a layer, as its exported file holds them.

    Attributes:
        input: the numbers that its input is rounded to; None for an input in float.
        weight: the steps of its weight, of shape (out,), or (out, blocks) in INT4; None maps the largest value of each
            output channel to 127.
        bits: of its weight.

    """

    input: Grid | None
    weight: NDArray[np.float32] | None = None
    bits: int = 8


class Quantize(Technique):
    """Gives each layer its bits: 8 for weights and activations, or 4 for the weights of a linear layer."""

    axis = BITS

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer each layer the bit-widths that the runtime has kernels for."""
        offers = ((layer.name, levels(layer, capabilities)) for layer in network.layers)
        return tuple(
            Choice(axis=self.axis, target=name, levels=bits, neutral=FLOAT) for name, bits in offers if len(bits) > 1
        )

    def conflicts(self, network: Network, choices: Sequence[Choice]) -> Iterator[Conflict]:
        """Yield the pruning that leaves a layer inputs which no block of weights in 4 bits divides."""
        return undivided(self.axis, WEIGHTS_ALONE, BLOCKS[1], network, choices)

    def settings(self) -> tuple[Choice, ...]:
        """Offer the calibration methods (see `calibration.METHODS`), and whether scales are trained."""
        return (
            Choice(axis=QUANTIZATION, target="calibration", levels=tuple(METHODS), needs=self.axis),
            Choice(axis=QUANTIZATION, target="scales", levels=("fixed", "learned"), needs=self.axis),
        )

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy with batch norms folded and quantizers in the chosen layers, their ranges calibrated.

        Channels between these layers are scaled before, and weights are rounded with their inputs in mind.
        Of a factorised layer in 4 bits, parts whose inputs no block of weights divides stay in float, so long as there
        is one that does not.
        """
        model, chosen = fold_batch_norm(model, supplies.examples), candidate[self.axis]
        if not chosen:
            return model
        modules = dict(model.named_modules())
        method = calibration_of(candidate)
        to_do: dict[str, tuple[nn.Module, int]] = {}
        for name, bits in chosen.items():
            if name not in modules:
                raise InfeasibleError(f"the network has no layer {name!r} to quantize", rung="build")
            if bits != FLOAT:
                found = list(parts(model, name))
                divided = [it for it in found if bits != WEIGHTS_ALONE or _divided(it[1])]
                to_do |= {part: (layer, int(bits)) for part, layer in divided or found}
        if not supplies.rough:
            equalize(model, [n for n, (_, bits) in to_do.items() if bits != WEIGHTS_ALONE], supplies)
        for name, (layer, bits) in to_do.items():
            put(model, name, _quantized(layer, bits, method, supplies.integers))
        layers = {n: m for n, m in model.named_modules() if isinstance(m, Quantized)}
        with watched({} if supplies.rough else layers, len(supplies.calibration)) as grams:
            _calibrate(model, supplies)
        round_weights(layers, grams)
        if candidate[QUANTIZATION].get("scales") == "learned":
            _share_ranges(model, supplies.examples)
            for module in model.modules():
                if isinstance(module, Quantized):
                    module.learn_scales()
        return model


def levels(layer: Layer, capabilities: Capabilities) -> tuple[int, ...]:
    """Return the bits to offer a layer: those that the runtime has kernels for, and that fit its inputs.

    A layer that computes in a way of its own has no weight that could be rounded apart from it. A transposed
    convolution in groups has output channels of which several share a place in its weight, and thus a scale.
    """
    if layer.kind == "recurrent":
        return tuple(bits for bits in capabilities.bits if bits in recurrent.BITS)
    if not layer.shape or layer.kind in capabilities.float_kinds or (layer.transposed and layer.groups > 1):
        return (FLOAT,)
    alone = capabilities.weight_bits if layer.kind == "linear" and layer.shape[1] % BLOCKS[1] == 0 else ()
    return (*capabilities.bits, *alone)


def without_kernels(network: Network, capabilities: Capabilities) -> Iterator[tuple[str, str]]:
    """Yield the layers that stay in float for lack of integer kernels, with the reason."""
    for layer in network.layers if len(capabilities.bits) > 1 else ():
        if layer.kind in capabilities.float_kinds:
            yield layer.name, f"it stays in float, as {capabilities.runtime} has no integer kernels for a {layer.kind}"
        elif layer.transposed and layer.groups > 1:
            yield layer.name, "it stays in float, as groups of a transposed convolution cannot have scales of their own"


def calibration_of(candidate: Candidate) -> str:
    """Return the candidate's calibration method, one of `calibration.METHODS`."""
    return str(candidate[QUANTIZATION].get("calibration", DEFAULT))


class Quantized(nn.Module):
    """A layer that rounds its weight, and in INT8 its input, before it computes.

    Args:
        layer: a convolution or a linear layer.
        bits: 8, or 4 for the weights of a linear layer in blocks.
        method: finds the range of its input; one of `calibration.METHODS`.
        integers: that the runtimes take.

    Raises:
        InfeasibleError: 4 bits for what is no linear layer, or for one that no block of weights divides.
    """

    def __init__(self, layer: nn.Module, bits: int, method: str = MAX, integers: Integers = SYMMETRIC) -> None:
        super().__init__()
        self.layer = layer
        self.bits = bits
        alone = bits == WEIGHTS_ALONE
        asymmetric = integers.asymmetric and not isinstance(layer, TRANSPOSED)  # OpenVINO's kernel takes 0 alone
        narrow = integers.narrow and not alone and not _depthwise(layer)
        self.round_input = None if alone else ActivationQuantizer(method, asymmetric=asymmetric)
        self.round_weight = WeightQuantizer(bits, _block(layer) if alone else None, output_axis(layer), narrow=narrow)
        always_called(self)

    @property
    def weight(self) -> Tensor:
        """The layer's weight, which some modules read."""
        return self.layer.weight  # type: ignore[return-value]  # layers have one

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        return self.layer.bias  # type: ignore[return-value]

    @property
    def scales(self) -> Scales:
        """The scales that it rounds with."""
        steps = self.steps().cpu().numpy()
        return Scales(None if self.round_input is None else self.round_input.grid, steps, self.bits)

    def steps(self) -> Tensor:
        """Return the steps of its weight, of shape (out,) or (out, blocks)."""
        return self.round_weight.scale(self.weight, self._least_steps())

    def rounded_weight(self) -> Tensor:
        """Return its weight as it computes with it."""
        rounded: Tensor = self.round_weight(self.weight, self._least_steps())
        return rounded

    def learn_scales(self) -> None:
        """Train the scales from now on, starting from the calibrated ones."""
        self.round_weight.learn(self.weight)
        if self.round_input is not None and self.round_input.learned is None:
            self.round_input.learn()

    def forward(self, x: Tensor, *more: Any, **options: Any) -> Tensor:
        """Compute the layer on rounded numbers."""
        weight = self.rounded_weight()
        x = x if self.round_input is None else self.round_input(x)
        output: Tensor = functional_call(self.layer, {"weight": weight}, (x, *more), options)
        return output

    def _least_steps(self) -> Tensor | None:
        """Return the smallest step of each output channel's weights; None without an integer bias.

        A channel that is dead, or nearly so, has weights about 0 and may still have a bias. In the steps of its
        largest weight that bias would not fit into 32 bits; in larger ones its weights become 0.
        """
        if self.bias is None or self.round_input is None or self.round_input.calibrating:
            return None
        return self.bias.detach().abs() / (self.round_input.grid.step * LARGEST_BIAS)


def _quantized(layer: nn.Module, bits: int, method: str, integers: Integers) -> nn.Module:
    if isinstance(layer, RECURRENT):
        return recurrent.QuantizedRecurrent(layer, bits)
    if not multiplies(layer):
        raise InfeasibleError(
            f"a {type(layer).__name__} that computes in a way of its own stays in float", rung="build"
        )
    if isinstance(layer, TRANSPOSED) and layer.groups > 1:
        raise InfeasibleError("a transposed convolution in groups stays in float: they share scales", rung="build")
    return Quantized(layer, bits, method, integers)


def _depthwise(layer: nn.Module) -> bool:
    """Return whether a layer is a depthwise convolution of images: kernels add its products in 32 bits."""
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels


def _divided(layer: nn.Module) -> bool:
    """Return whether a block of weights in 4 bits divides a layer's inputs."""
    return isinstance(layer, nn.Linear) and layer.in_features % BLOCKS[1] == 0


def _block(layer: nn.Module) -> int:
    """Return how many weights of a layer share a scale in INT4."""
    if not isinstance(layer, nn.Linear):
        raise InfeasibleError(f"4 bits are for linear layers; a {type(layer).__name__} takes 8", rung="build")
    most, least = BLOCKS
    block = block_of(layer.in_features, most, least)
    if not block:
        raise InfeasibleError(
            f"4 bits need a multiple of {least} inputs; the linear layer has {layer.in_features}", rung="build"
        )
    return block


def _calibrate(model: nn.Module, supplies: Supplies) -> None:
    quantizers = [m for m in model.modules() if isinstance(m, ActivationQuantizer)]
    model.eval()
    with torch.no_grad():
        for inputs in supplies.calibration:
            for quantizer in quantizers:
                quantizer.examples = len(inputs[0]) if have_a_batch(inputs) else 1
            model(*inputs)
    for quantizer in quantizers:
        quantizer.calibrated()


def _share_ranges(model: nn.Module, examples: Inputs) -> None:
    """Share one quantizer between layers that read the same tensor: the exported file rounds it once."""
    layers = [m for m in model.modules() if isinstance(m, Quantized) and m.round_input is not None]
    read: dict[tuple[int, int], tuple[Tensor, Quantized]] = {}  # keeps the tensors, so that no identity is used twice

    def enter(module: Quantized, inputs: Inputs) -> None:
        _, first = read.setdefault((id(inputs[0]), version(inputs[0])), (inputs[0], module))
        ours, theirs = module.round_input, first.round_input
        if ours is theirs or ours is None or theirs is None:
            return
        theirs.widen(*ours.ends)
        theirs.asymmetric &= ours.asymmetric
        for layer in layers:
            layer.round_input = theirs if layer.round_input is ours else layer.round_input

    hooks = [layer.register_forward_pre_hook(enter) for layer in layers]
    run(model, examples)
    for hook in hooks:
        hook.remove()


def strip(model: nn.Module) -> tuple[nn.Module, dict[str, Scales]]:
    """Return a float copy without quantizers, and the scales of each quantized layer."""
    model = copied(model)
    scales: dict[str, Scales] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, Quantized):
            scales[name] = module.scales
            put(model, name, module.layer)
        elif isinstance(module, recurrent.QuantizedRecurrent):
            put(model, name, module.layer)
    return model, scales
