"""Attributes a runtime's profile of a graph to the layers of the network."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import onnx
from onnx import NodeProto

from ..spaces.layers import Network
from .cost_model import CostModel

RENAMED = re.compile(r"(_nchwc|_token_\d+)+$")
"""What ONNX Runtime appends to the name of a node that it rewrites."""

STORED = {"DequantizeLinear", "Transpose", "Cast", "Identity"}
"""Operators that may lie between a stored weight and the node that multiplies by it."""


def layer_costs(
    network: Network, canonical: bytes, layers: Mapping[str, str], node_ms: Mapping[str, float], baseline_ms: float
) -> CostModel:
    """Divide the baseline's milliseconds among its layers.

    Args:
        network: the layers.
        canonical: the baseline's ONNX file.
        layers: the layer of each weight in the file.
        node_ms: milliseconds by the name of a node, of the tensor that a fused node makes, or of a layer. If the
            layers take less than half of them, multiply-accumulates decide instead.
        baseline_ms: the milliseconds to divide.

    """
    cost = layer_times([layer.name for layer in network.layers], canonical, layers, node_ms)
    total = sum(node_ms.values())
    if cost is None:
        cost = {layer.name: float(layer.macs) for layer in network.layers}
        total = max(network.macs, sum(cost.values())) / 0.9 or 1.0  # a tenth for operators that only move numbers
    scale = baseline_ms / total
    return CostModel(
        layer_ms={name: value * scale for name, value in cost.items()},
        other_ms=(total - sum(cost.values())) * scale,
    )


def layer_times(
    names: Collection[str], canonical: bytes, layers: Mapping[str, str], node_ms: Mapping[str, float]
) -> dict[str, float] | None:
    """Sum a profile's nodes for each layer; None if the layers take less than half of the time.

    A node without a weight counts for the layer whose output it reads.

    Args:
        names: the layers to find; a replacement such as ``conv1.0`` counts for ``conv1``.
        canonical: the profiled network's ONNX file.
        layers: the layer of each weight in the file, in float or as it is stored.
        node_ms: milliseconds by the name of a node, of the tensor that a fused node makes, or of a layer.

    """
    graph = onnx.load_from_string(canonical).graph
    maker = {name: node for node in graph.node for name in (node.name, *node.output)}
    spent = dict.fromkeys(names, 0.0)
    for name, milliseconds in node_ms.items():
        layer = _owner(name, spent)
        node = maker.get(RENAMED.sub("", name))
        while layer is None and node is not None:
            layer = _owner(_layer_of(node, maker, layers), spent)
            node = next((maker[tensor] for tensor in node.input if tensor in maker), None)  # a bias may come first
        if layer is not None:
            spent[layer] += milliseconds
    total = sum(node_ms.values())
    return spent if total and sum(spent.values()) >= 0.5 * total else None


def _layer_of(node: NodeProto, maker: Mapping[str, NodeProto], layers: Mapping[str, str]) -> str:
    """Return the layer whose weight a node multiplies by; empty if it has no weight."""
    if len(node.input) < 2 or node.op_type in STORED:
        return ""
    weight = node.input[1]
    while weight not in layers and weight in maker and maker[weight].op_type in STORED:
        weight = maker[weight].input[0]
    return layers.get(weight) or layers.get(weight.removesuffix("_quantized"), "")


def _owner(part: str, names: Collection[str]) -> str | None:
    """Return the layer that a module is or belongs to; None if there is none."""
    while part and part not in names:
        part = part.rpartition(".")[0]
    return part or None
