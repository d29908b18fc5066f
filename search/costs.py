"""Predicts latency from what layers cost in the baseline.

Predictions only order candidates; what is reported was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from ..spaces.candidate import BITS, PRUNING_RATIO, Candidate
from ..spaces.layers import Network


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """The latency of a candidate as a sum over layers.

    Attributes:
        layer_ms: milliseconds of each layer in the baseline.
        other_ms: milliseconds of all the rest.
        integer_factor: time of a layer in INT8 over its time in float, on this runtime and machine.

    """

    layer_ms: Mapping[str, float]
    other_ms: float
    integer_factor: float = 1.0

    def predict_ms(self, network: Network, candidate: Candidate) -> float:
        """Return the predicted latency in milliseconds of a candidate for a network."""
        pruned, bits = candidate[PRUNING_RATIO], candidate[BITS]
        total = self.other_ms
        for layer in network.layers:
            share = self.integer_factor if layer.name in bits else 1.0
            for group in {*layer.in_groups, layer.out_group}:
                share *= 1 - float(pruned.get(group or "", 0.0))
            total += share * self.layer_ms.get(layer.name, 0.0)
        return total


def layer_costs(
    network: Network, canonical: bytes, layers: Mapping[str, str], node_ms: Mapping[str, float], baseline_ms: float
) -> CostModel:
    """Share the baseline's milliseconds among its layers.

    Args:
        network: the layers.
        canonical: the baseline's ONNX file.
        layers: for each weight in the file the layer it belongs to.
        node_ms: what a runtime's profiler says of nodes, of the tensors that fused nodes make, or of the layers;
            where that covers less than half of the time, multiply-accumulates decide.
        baseline_ms: the sum.

    """
    graph = onnx.load_from_string(canonical).graph
    maker = {name: node for node in graph.node for name in (node.name, *node.output)}
    cost = dict.fromkeys((layer.name for layer in network.layers), 0.0)
    for name, milliseconds in node_ms.items():
        if name in cost:
            cost[name] += milliseconds
            continue
        node = maker.get(name.removesuffix("_nchwc"))
        while node is not None and not (len(node.input) > 1 and node.input[1] in layers):
            node = next((maker[tensor] for tensor in node.input if tensor in maker), None)  # a bias may come first
        if node is not None and layers[node.input[1]] in cost:
            cost[layers[node.input[1]]] += milliseconds
    total = sum(node_ms.values())
    if sum(cost.values()) < 0.5 * total or not total:
        cost = {layer.name: float(layer.macs) for layer in network.layers}
        total = sum(cost.values()) / 0.9 or 1.0  # a tenth for all that is no layer
    scale = baseline_ms / total
    return CostModel(
        layer_ms={name: value * scale for name, value in cost.items()},
        other_ms=(total - sum(cost.values())) * scale,
    )
