"""Recurrent layers (LSTM, GRU) with their weights in INT8, simulated so that training can adapt to it.

Each row of a gate has a scale, of its input weights and of its recurrent weights. Inputs and hidden states stay in
float here; where a runtime has a kernel for it, they are rounded over the range of each step as it comes, which needs
no calibration (He et al., arXiv:1611.10176, quantize both). `recurrent_onnx.py` writes the same weights into the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import onnx
import torch
import torch_pruning
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

from ...errors import InfeasibleError
from ..initializers import made
from ..onnx_files.recurrent import integer_weights

RECURRENT = (nn.LSTM, nn.GRU)
"""Module types that count as recurrent layers."""

BITS = (32, 8)
"""Bits that a recurrent layer's weights may have."""

GATES: dict[type[nn.Module], tuple[int, ...]] = {nn.LSTM: (0, 3, 1, 2), nn.GRU: (1, 0, 2)}
"""Where PyTorch keeps the gates that ONNX has first, second, …"""

WIDTH_STAYS = "its hidden width stays, as each of its gates reads it back"
"""Why a recurrent layer is in no group."""

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
        rounded = {name: _rounded(p) for name, p in self.layer.named_parameters() if p.dim() > 1}
        outputs: tuple[Tensor | PackedSequence, Tensor | tuple[Tensor, Tensor]]
        outputs = functional_call(self.layer, rounded, (x, state))
        return outputs


def _rounded(weight: Tensor) -> Tensor:
    """Return a weight of shape (gates × hidden, inputs) on the grids of its rows."""
    scale = weight.detach().abs().amax(1).clamp_min(1e-8) / TOP
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -TOP, TOP)


class Inputs(torch_pruning.BasePruningFunc):  # type: ignore[misc]  # the library has no types
    """Tells torch-pruning how the channels go that a recurrent layer reads; those that it makes stay."""

    def prune_in_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.RNNBase:
        """Remove columns of the first level's input weights, in each direction."""
        gone = set(idxs)
        kept = [channel for channel in range(layer.input_size) if channel not in gone]
        for direction in ("", "_reverse") if layer.bidirectional else ("",):
            name = f"weight_ih_l0{direction}"
            setattr(layer, name, nn.Parameter(getattr(layer, name).detach()[:, kept].contiguous()))
        layer.input_size = len(kept)
        return layer

    def prune_out_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.RNNBase:
        """Refuse."""
        raise InfeasibleError("a recurrent layer, whose hidden width stays, shares its channels", rung="build")

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        """Return the channels of its inputs."""
        return layer.input_size

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        """Return the channels of its outputs."""
        return layer.hidden_size * (2 if layer.bidirectional else 1)


PRUNERS = {kind: Inputs() for kind in RECURRENT}


class _OneStep(torch.autograd.Function):
    """Stands for all that a recurrent layer does, so that a tracer of gradients meets it as one operation."""

    @staticmethod
    def forward(ctx: Any, shapes: Sequence[tuple[int, ...]], x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return zeros of the shapes of outputs and states."""
        return tuple(x.new_zeros(shape) for shape in shapes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        """Refuse."""
        raise NotImplementedError("nothing is trained while a network is traced")


@contextmanager
def as_one_operation(model: nn.Module) -> Iterator[None]:
    """Let each recurrent layer of a network be one operation for a while; what the network computes is of no use then.

    PyTorch unrolls them into operations of each step, of which a tracer would make a graph.
    """
    layers = [module for module in model.modules() if isinstance(module, RECURRENT)]
    for layer in layers:
        layer.forward = partial(_stand_in, layer)  # type: ignore[method-assign]  # for a while
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _stand_in(layer: nn.RNNBase, x: Tensor | PackedSequence, state: Any = None) -> Any:
    if isinstance(x, PackedSequence):
        return type(layer).forward(layer, x, state)
    directions = 2 if layer.bidirectional else 1
    batch = (x.shape[0 if layer.batch_first else 1],) if x.dim() == 3 else ()
    hidden = (directions * layer.num_layers, *batch)
    states = [(*hidden, layer.hidden_size)] * (2 if isinstance(layer, nn.LSTM) else 1)
    given = () if state is None else (state,) if isinstance(state, Tensor) else tuple(state)
    y, *after = _OneStep.apply([(*x.shape[:-1], directions * layer.hidden_size), *states], x, *given)
    return y, tuple(after) if len(after) > 1 else after[0]


def quantized(model: nn.Module) -> frozenset[str]:
    """Return the names of a network's recurrent layers whose weights are rounded."""
    return frozenset(name for name, module in model.named_modules() if isinstance(module, QuantizedRecurrent))


def macs(layer: nn.RNNBase, x: Tensor | PackedSequence) -> int:
    """Return the multiply-accumulates of one sequence: its steps times the weights of all gates and directions."""
    if isinstance(x, PackedSequence):
        steps = len(x.batch_sizes)
    else:
        steps = x.shape[1 if layer.batch_first and x.dim() == 3 else 0]
    return steps * sum(p.numel() for p in layer.parameters() if p.dim() > 1)


def layers_of(proto: onnx.ModelProto, model: nn.Module) -> dict[str, str]:
    """Return for each weight of an LSTM or GRU node the name of its layer, by its values."""
    return {weight: layer for layer, _, weights in _found(proto, model) for weight in weights}


def owners(proto: onnx.ModelProto, model: nn.Module) -> dict[str, str]:
    """Return for what an LSTM or GRU node makes the name of the layer that it computes."""
    return {made(node): layer for layer, node, _ in _found(proto, model)}


def _found(proto: onnx.ModelProto, model: nn.Module) -> Iterator[tuple[str, onnx.NodeProto, list[str]]]:
    """Yield the layers, nodes and weights of those LSTM and GRU nodes whose weights are those of layers."""
    names = {
        weight.tobytes(): name
        for name, module in model.named_modules()
        if isinstance(module, RECURRENT)
        for weight in _as_in_onnx(module)
    }
    constants = {constant.name: constant for constant in proto.graph.initializer}
    for node in proto.graph.node if names else ():
        weights = [name for name in node.input[1:3] if name in constants and node.op_type in {"LSTM", "GRU"}]
        layers = [names.get(numpy_helper.to_array(constants[name]).tobytes()) for name in weights]
        for layer in dict.fromkeys(layers):
            if layer is not None:
                yield layer, node, [weight for weight, owner in zip(weights, layers, strict=True) if owner == layer]


def insert(graph: onnx.ModelProto, model: nn.Module, names: Collection[str]) -> onnx.ModelProto:
    """Return a graph with the weights of the named layers in INT8.

    Args:
        graph: the exported network.
        model: the network it was exported from, without quantizers.
        names: of recurrent layers.

    Raises:
        InfeasibleError: the file holds a layer in another form.

    """
    if not names:
        return graph
    owners = layers_of(graph, model)
    missing = sorted(set(names).difference(owners.values()))
    if missing:
        raise InfeasibleError(f"the file has no LSTM or GRU with the weights of {missing[0]!r}", rung="build")
    return integer_weights(graph, {weight for weight, owner in owners.items() if owner in names})


def _as_in_onnx(layer: nn.RNNBase) -> list[NDArray[np.float32]]:
    """Return each level's input and recurrent weights as ONNX has them: (directions, gates × hidden, inputs)."""
    order = GATES[type(layer)]
    found = []
    for level in range(layer.num_layers):
        for kind in ("ih", "hh"):
            directions = ("", "_reverse") if layer.bidirectional else ("",)
            weights = [getattr(layer, f"weight_{kind}_l{level}{direction}") for direction in directions]
            gates = [w.detach().reshape(len(order), -1, w.shape[1])[list(order)].flatten(0, 1) for w in weights]
            found.append(np.ascontiguousarray(torch.stack(gates).numpy()))
    return found
