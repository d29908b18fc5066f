"""Linear symmetric quantization of weights and activations, simulated so that training can adapt to it.

Weights have one scale for each output channel, activations one scale for each layer's input. Rounding passes
gradients straight through (Jacob et al., CVPR 2018). `qdq.py` writes the same scales into the ONNX file.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import InfeasibleError
from ..spaces.candidate import BITS, Candidate
from ..spaces.capabilities import Capabilities
from ..spaces.layers import Network
from ..spaces.space import Choice
from .fold import fold_batch_norm
from .graph import parts
from .technique import Supplies, Technique

FLOAT = 32
"""Bits of a layer that stays in floating point."""


class Quantize(Technique):
    """Gives each layer its bits, for weights and activations alike."""

    axis = BITS

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer each layer the bit-widths that the runtime has kernels for."""
        if len(capabilities.bits) < 2:
            return ()
        return tuple(
            Choice(axis=self.axis, target=layer.name, levels=capabilities.bits, neutral=FLOAT)
            for layer in network.layers
        )

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy with batch norms folded and quantizers in the chosen layers, their ranges calibrated."""
        model, chosen = fold_batch_norm(model, supplies.examples), candidate[self.axis]
        if not chosen:
            return model
        modules = dict(model.named_modules())
        for name, bits in chosen.items():
            if name not in modules:
                raise InfeasibleError(f"the network has no layer {name!r} to quantize", rung="build")
            if bits != FLOAT:
                for part, layer in parts(model, name):
                    _replace(model, part, Quantized(layer, int(bits)))
        _calibrate(model, supplies)
        return model


class WeightQuantizer(nn.Module):
    """Rounds a weight of shape (out, …) to ``bits``; the scales follow the weight as it trains."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.top = 2 ** (bits - 1) - 1

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight on its grid; gradients pass straight through."""
        scale = weight_scale(weight, self.top)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -self.top, self.top)


def weight_scale(weight: Tensor, top: int = 127) -> Tensor:
    """Return one scale for each output channel of a weight of shape (out, …), so that its largest value maps to top."""
    return weight.detach().abs().amax(tuple(range(1, weight.dim()))).clamp_min(1e-8) / top


class ActivationQuantizer(nn.Module):
    """Rounds a layer's input to ``bits`` over the range that calibration saw; scale per tensor, zero point 0."""

    largest: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.top = 2 ** (bits - 1) - 1
        self.calibrating = True
        self.register_buffer("largest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input on its grid, or, while calibrating, as it is."""
        if self.calibrating:
            self.largest.copy_(torch.maximum(self.largest, x.detach().abs().max()))
            return x
        return torch.fake_quantize_per_tensor_affine(x, self.scale, 0, -self.top, self.top)

    @property
    def scale(self) -> float:
        """The step between two levels."""
        return max(self.largest.item(), 1e-8) / float(self.top)


class Quantized(nn.Module):
    """A layer whose input and weight are rounded before it computes."""

    def __init__(self, layer: nn.Module, bits: int) -> None:
        super().__init__()
        self.layer = layer
        self.round_input = ActivationQuantizer(bits)
        self.round_weight = WeightQuantizer(bits)
        self.register_forward_pre_hook(_as_they_are)  # else PyTorch's encoder layers compute without their modules

    @property
    def weight(self) -> Tensor:
        """The layer's weight, which some modules look at."""
        return self.layer.weight  # type: ignore[return-value]  # layers have one

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        return self.layer.bias  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Compute as the layer does, on rounded numbers."""
        weight = self.round_weight(self.layer.weight)
        output: Tensor = functional_call(self.layer, {"weight": weight}, (self.round_input(x),))
        return output


def _as_they_are(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Change nothing before a layer computes."""


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _calibrate(model: nn.Module, supplies: Supplies) -> None:
    quantizers = [m for m in model.modules() if isinstance(m, ActivationQuantizer)]
    model.eval()
    with torch.no_grad():
        for inputs in supplies.calibration:
            model(*inputs)
    for quantizer in quantizers:
        quantizer.calibrating = False


def strip(model: nn.Module) -> tuple[nn.Module, dict[str, float]]:
    """Return a float copy without quantizers, and the input scale of each layer that had one."""
    model = copy.deepcopy(model)
    scales: dict[str, float] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, Quantized):
            scales[name] = module.round_input.scale
            _replace(model, name, module.layer)
    return model, scales
