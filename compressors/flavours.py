"""Rewrites the canonical Q/DQ file into the layout that a runtime fuses, with the same ranges.

This module imports no torch: runtimes use it in processes that only measure.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

KEEPS_SIGN = {"MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Reshape", "Flatten", "Transpose", "Squeeze"}
KEEPS_SIGN |= {"QuantizeLinear", "DequantizeLinear"}


def unsigned_activations(canonical: bytes) -> bytes:
    """Return the file with activations in UINT8: zero point 0 where they cannot be negative, else 128.

    ONNX Runtime on a CPU fuses a layer, its ReLU and the quantization after it only when the zero point is the
    type's least value. Ranges stay, so that activations are clipped where training clipped them: non-negative ones
    get 255 finer steps. Weights are narrowed to 7 bits: processors without VNNI add pairs of products in 16 bits,
    and 255 × 127 × 2 would not fit.
    """
    proto = onnx.load_from_string(canonical)
    constants = {i.name: i for i in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}

    def never_negative(name: str) -> bool:
        node = makers.get(name)
        if node is None:
            return False
        if node.op_type == "Clip":
            least = constants.get(node.input[1]) if len(node.input) > 1 else None
            return least is not None and float(numpy_helper.to_array(least)) >= 0
        return node.op_type in {"Relu", "Sigmoid", "Softmax"} or (
            node.op_type in KEEPS_SIGN and never_negative(node.input[0])
        )

    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear":
            positive = never_negative(node.input[0])
            zero = np.array(0 if positive else 128, np.uint8)
            constants[node.input[2]].CopyFrom(numpy_helper.from_array(zero, node.input[2]))
            if positive:  # 255 steps to where there were 127, so that what training clipped still is
                step = numpy_helper.to_array(constants[node.input[1]]) * np.float32(127 / 255)
                constants[node.input[1]].CopyFrom(numpy_helper.from_array(step, node.input[1]))
    _narrow_weights(proto)
    _integer_biases(proto)
    onnx.checker.check_model(proto)
    flavoured: bytes = proto.SerializeToString()
    return flavoured


def _narrow_weights(proto: ModelProto) -> None:
    """Halve the integer weights of quantized layers, and double their scales."""
    constants = {i.name: i for i in proto.graph.initializer}
    dequantize = {n.output[0]: n for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    narrowed = set()
    for node in proto.graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"} or not all(name in dequantize for name in node.input[:2]):
            continue
        weight = dequantize[node.input[1]]
        if weight.input[0] not in constants or weight.input[0] in narrowed:
            continue
        narrowed.add(weight.input[0])
        integers, scale = (numpy_helper.to_array(constants[name]) for name in weight.input[:2])
        halved = np.rint(integers / 2).astype(np.int8)
        constants[weight.input[0]].CopyFrom(numpy_helper.from_array(halved, weight.input[0]))
        constants[weight.input[1]].CopyFrom(numpy_helper.from_array(scale * np.float32(2), weight.input[1]))


def _integer_biases(proto: ModelProto) -> None:
    """Store the biases of quantized layers as INT32 at the scale of their products."""
    graph = proto.graph
    constants = {i.name: i for i in graph.initializer}
    scale_of = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "DequantizeLinear"}
    added = []
    for node in list(graph.node):
        if node.op_type not in {"Conv", "Gemm"} or len(node.input) < 3 or node.input[2] not in constants:
            continue
        if node.input[0] not in scale_of or node.input[1] not in scale_of:
            continue
        name = f"{node.output[0]}_{node.input[2]}"  # a layer that runs twice has two products
        steps = (numpy_helper.to_array(constants[scale_of[node.input[i]]]).astype(np.float64) for i in (0, 1))
        scale = np.prod(np.broadcast_arrays(*steps), axis=0)
        bias = np.rint(numpy_helper.to_array(constants[node.input[2]]) / scale)
        if np.abs(bias).max(initial=0) >= 2**31:
            continue
        values = {"quantized": bias.astype(np.int32), "scale": scale.astype(np.float32)}
        values["zero"] = np.zeros(scale.shape, np.int32)
        graph.initializer.extend(numpy_helper.from_array(v, f"{name}_{suffix}") for suffix, v in values.items())
        inputs = [f"{name}_{suffix}" for suffix in values]
        added.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_DQ", axis=0))
        node.input[2] = f"{name}_dequantized"
    nodes = [type(n).FromString(n.SerializeToString()) for n in (*added, *graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [c for c in graph.initializer if c.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
