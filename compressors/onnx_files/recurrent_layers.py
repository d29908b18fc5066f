"""Finds a network's recurrent layers in an ONNX file, and quantizes their weights to INT8."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from ...errors import InfeasibleError
from ..initializers import made
from ..modules import RECURRENT
from .recurrent import integer_weights

GATES: dict[type[nn.Module], tuple[int, ...]] = {nn.LSTM: (0, 3, 1, 2), nn.GRU: (1, 0, 2)}
"""Where PyTorch keeps the gates that ONNX has first, second, …"""


def layers_of(proto: onnx.ModelProto, model: nn.Module) -> dict[str, str]:
    """Map each weight of an LSTM or GRU node to its layer's name, by its values."""
    return {weight: layer for layer, _, weights in _found(proto, model) for weight in weights}


def owners(proto: onnx.ModelProto, model: nn.Module) -> dict[str, str]:
    """Map each LSTM or GRU node's output to the layer that it computes."""
    return {made(node): layer for layer, node, _ in _found(proto, model)}


def _found(proto: onnx.ModelProto, model: nn.Module) -> Iterator[tuple[str, onnx.NodeProto, list[str]]]:
    """Yield layer, node and weights for LSTM and GRU nodes whose weights belong to a layer."""
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
    """Return each level's input and recurrent weights in ONNX's layout: (directions, gates × hidden, inputs)."""
    order = GATES[type(layer)]
    found = []
    for level in range(layer.num_layers):
        for kind in ("ih", "hh"):
            directions = ("", "_reverse") if layer.bidirectional else ("",)
            weights = [getattr(layer, f"weight_{kind}_l{level}{direction}") for direction in directions]
            gates = [w.detach().reshape(len(order), -1, w.shape[1])[list(order)].flatten(0, 1) for w in weights]
            found.append(np.ascontiguousarray(torch.stack(gates).numpy()))
    return found
