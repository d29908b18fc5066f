"""Recurrent layers (LSTM, GRU) with their weights in INT8, simulated so that training can adapt to it.

Each row of a gate has a scale, of its input weights and of its recurrent weights. Inputs and hidden states stay in
float here; where a runtime has a kernel for it, they are rounded over the range of each step as it comes, which needs
no calibration (He et al., arXiv:1611.10176, quantize both). The file gets the same weights from
`onnx_files/recurrent_layers.py`.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

from ...errors import InfeasibleError
from .rounding import rounded

BITS = (32, 8)
"""Bits that a recurrent layer's weights may have."""


TOP = 127


class QuantizedRecurrent(nn.Module):
    """A recurrent layer whose weights are rounded before it computes; its biases stay as they are.

    Args:
        layer: an `nn.LSTM` or `nn.GRU`.
        bits: 8.

    Raises:
        InfeasibleError: other bits.
    """

    def __init__(self, layer: nn.RNNBase, bits: int) -> None:
        super().__init__()
        if bits not in BITS:
            kind = type(layer).__name__
            raise InfeasibleError(f"recurrent layers take 8 bits; {bits} were asked of a {kind}", rung="build")
        self.layer = layer

    def forward(
        self, x: Tensor | PackedSequence, state: Tensor | tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor | tuple[Tensor, Tensor]]:
        """Compute as the layer does, on rounded weights; gradients pass straight through the rounding."""
        weights = {name: _rounded(p) for name, p in self.layer.named_parameters() if p.dim() > 1}
        outputs: tuple[Tensor | PackedSequence, Tensor | tuple[Tensor, Tensor]]
        outputs = functional_call(self.layer, weights, (x, state))
        return outputs


def _rounded(weight: Tensor) -> Tensor:
    """Return a weight of shape (gates × hidden, inputs) on the grids of its rows."""
    scale = weight.detach().abs().amax(1).clamp_min(1e-8) / TOP
    return rounded(weight, scale.unsqueeze(1))


def quantized(model: nn.Module) -> frozenset[str]:
    """Return the names of a network's recurrent layers whose weights are rounded."""
    return frozenset(name for name, module in model.named_modules() if isinstance(module, QuantizedRecurrent))
