"""Rewrites the canonical Q/DQ file into the layout that a runtime fuses, with the same ranges.

This module imports no torch: runtimes use it in processes that only measure.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..initializers import drop_unread
from ..quantization.calibration import LARGEST_BIAS, Grid, pair_sums
from .tensor_ranges import MOVES, Batches, spans

KEEPS_SIGN = {"MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Reshape", "Flatten", "Transpose", "Squeeze"}
PAIR = 128
"""The largest sum of two weights that are multiplied by UINT8 and added in 16 bits: 255 × 128 fits."""

KEEPS_SIGN |= {"Unsqueeze", "QuantizeLinear", "DequantizeLinear"}

MERGES = {"Concat", "Add"}
"""Operators that make no negative number of any that are not."""


def unsigned_activations(canonical: bytes, calibration: Batches = ()) -> bytes:
    """Return the file with activations in UINT8; what was in INT8 starts at the smallest value seen.

    Ranges stay, so that activations are clipped where training clipped them; what is not negative, or hardly, as after
    a SiLU, gets up to twice as fine steps. What a transposed convolution reads stays in INT8 if it may be negative.
    ONNX Runtime on a CPU fuses a layer, its ReLU and the quantization after it only when the zero point is the type's
    least value. A channel's weights are made smaller where two neighbours are large: processors without VNNI add pairs
    of products in 16 bits, and 255 × 127 × 2 would not fit.

    Args:
        canonical: what `qdq.insert` made.
        calibration: batches of inputs; without them what may be negative has steps to both sides alike.

    """
    proto = onnx.load_from_string(canonical)
    constants = {i.name: i for i in proto.graph.initializer}
    quantizers = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    quantizers = [node for node in quantizers if constants[node.input[2]].data_type == TensorProto.INT8]
    origins, unknown = _origins(proto, [node.input[0] for node in quantizers])
    lows = _lows(origins, unknown, spans(proto, unknown, calibration))
    signed = {name for name in _read_by_transposed(proto) if lows.get(name, 0.0) < 0}
    for node in (node for node in quantizers if node.input[0] not in signed):
        reach = 127 * float(numpy_helper.to_array(constants[node.input[1]]))
        step, zero = _grid(lows[node.input[0]], reach)
        constants[node.input[1]].CopyFrom(numpy_helper.from_array(step, node.input[1]))
        constants[node.input[2]].CopyFrom(numpy_helper.from_array(zero, node.input[2]))
    _narrow_weights(proto)
    _integer_biases(proto)
    _keep_activations_apart(proto)
    onnx.checker.check_model(proto)
    flavoured: bytes = proto.SerializeToString()
    return flavoured


WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Operators whose weights ONNX Runtime may quantize unasked."""


def _read_by_transposed(proto: ModelProto) -> set[str]:
    """Return the integer inputs of transposed convolutions: OpenVINO's kernel takes only a zero point of 0."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    found = set()
    for node in proto.graph.node:
        read = [makers.get(name) for name in node.input[:2]]
        if node.op_type == "ConvTranspose" and all(m is not None and m.op_type == "DequantizeLinear" for m in read):
            found.add(makers[makers[node.input[0]].input[0]].input[0])
    return found


def maxima_of_integers(flavoured: bytes) -> bytes:
    """Return the file with tensors rounded before max pooling instead of after it; the result is the same.

    OpenVINO would fuse the rounding into its kernel, whose outputs are wrong then by a tenth of their range.
    """
    proto = onnx.load_from_string(flavoured)
    nodes = list(proto.graph.node)
    makers = {name: node for node in nodes for name in node.output}
    times = Counter(name for node in nodes for name in node.input)
    for quantizer in [node for node in nodes if node.op_type == "QuantizeLinear"]:
        maximum = makers.get(quantizer.input[0])
        if maximum is None or maximum.op_type != "ReduceMax" or times[quantizer.input[0]] > 1:
            continue
        restoring = next(node for node in nodes if quantizer.output[0] in node.input)
        source, made = maximum.input[0], restoring.output[0]
        quantizer.input[0], maximum.output[0] = source, made
        restoring.output[0] = maximum.input[0] = f"{made}_before"
        nodes = [node for node in nodes if node not in (quantizer, restoring, maximum)]
        place = next((i for i, node in enumerate(nodes) if source in node.output), -1) + 1
        nodes[place:place] = quantizer, restoring, maximum
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def integer_outputs(unsigned: bytes, calibration: Batches) -> bytes:
    """Return the file with all outputs of quantized convolutions in UINT8, even if a float layer reads them.

    ONNX Runtime runs a convolution, or a linear layer and its ReLU, in integers only when nothing but integers leaves
    it. For a layer in float they become numbers again with one scale a channel, all equal: it would quantize the
    weights of a layer that reads numbers of a single scale. For others there is one scale, whose kernel is much faster.

    Args:
        unsigned: what `unsigned_activations` made.
        calibration: batches of inputs, from which the ranges are taken that the file does not have.

    """
    proto = onnx.load_from_string(unsigned)
    constants = {i.name: i for i in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    quantizers = {node.input[0]: node for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    mixed = _read_as_floats(proto, makers)
    if not mixed:
        return unsigned
    without = mixed.keys() - quantizers.keys()
    origins, unknown = _origins(proto, without)
    seen = spans(proto, without | unknown, calibration)
    lows = _lows(origins, unknown, seen)
    added: dict[str, list[NodeProto]] = defaultdict(list)  # by the tensor after which they come
    for name, layer in mixed.items():
        quantizer = quantizers.get(name)
        if quantizer is not None:
            step, zero = (numpy_helper.to_array(constants[constant]) for constant in quantizer.input[1:])
        elif name in seen:
            grid = Grid.over(lows[name], seen[name][1], asymmetric=True)
            step, zero = np.array(grid.step, np.float32), grid.zero
            quantizer = helper.make_node("QuantizeLinear", [name, f"{name}_step", f"{name}_least"], [f"{name}_made"])
            proto.graph.initializer.append(numpy_helper.from_array(step, f"{name}_step"))
            proto.graph.initializer.append(numpy_helper.from_array(zero, f"{name}_least"))
            added[name].append(quantizer)
        else:
            continue
        inputs = [quantizer.output[0], *quantizer.input[1:]]
        if _weights_meet(proto, name):
            inputs[1:] = f"{name}_steps", f"{name}_leasts"
            channels = constants[makers[layer.input[1]].input[1]].dims[0]
            for constant, value in zip(inputs[1:], (step, zero), strict=True):
                proto.graph.initializer.append(numpy_helper.from_array(np.full(channels, value), constant))
        for node in proto.graph.node:
            if node.op_type != "QuantizeLinear":
                node.input[:] = [f"{name}_again" if read == name else read for read in node.input]
        added[quantizer.output[0]].append(helper.make_node("DequantizeLinear", inputs, [f"{name}_again"], axis=1))
    _insert(proto, added)
    onnx.checker.check_model(proto)
    return bytes(proto.SerializeToString())


def _weights_meet(proto: ModelProto, name: str) -> bool:
    """Return whether an operator with weights reads a tensor, directly or through nodes that only move it."""
    readers = [node for node in proto.graph.node if name in node.input]
    moved = [node.output[0] for node in readers if node.op_type in MOVES]
    return any(node.op_type in WEIGHTED for node in readers) or any(_weights_meet(proto, each) for each in moved)


def _read_as_floats(proto: ModelProto, makers: Mapping[str, NodeProto]) -> dict[str, NodeProto]:
    """Return the tensors that nodes read as floats although they leave a quantized layer as integers."""
    readers = defaultdict(list)
    for node in proto.graph.node:
        for name in node.input:
            readers[name].append(node.op_type)
    outputs = {output.name for output in proto.graph.output}
    following = {node.input[0]: node.output[0] for node in proto.graph.node if node.op_type in {"Relu", "Clip"}}
    found = {}
    for node in proto.graph.node:
        read = [makers[name].op_type if name in makers else "" for name in node.input[:2]]
        if node.op_type not in {"Conv", "Gemm"} or read != ["DequantizeLinear"] * 2:
            continue
        name = node.output[0]
        while len(readers[name]) == 1 and name in following:
            name = following[name]
        bare = node.op_type == "Gemm" and name == node.output[0]
        if not bare and name not in outputs and set(readers[name]) - {"QuantizeLinear"}:
            found[name] = node
    return found


def _grid(low: float, reach: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return the UINT8 scale and zero point for numbers from max(−reach, low) to reach."""
    if low >= 0:
        return np.array(reach / 255, np.float32), np.array(0, np.uint8)
    if low <= -reach:
        return np.array(reach / 127, np.float32), np.array(128, np.uint8)
    step = (reach - low) / 254  # of 255, so that both ends are on the grid with 0
    return np.array(step, np.float32), np.array(math.ceil(-low / step), np.uint8)


def _origins(proto: ModelProto, names: Collection[str]) -> tuple[dict[str, str], set[str]]:
    """Return the tensors from which others are moved, by the others' names, and those of them that may be negative.

    A tensor and its moved copy begin alike, so that runtimes move integers.
    """
    constants = {i.name: i for i in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}

    def origin(name: str) -> str:
        node = makers.get(name)
        moved = node is not None and node.op_type in MOVES | {"QuantizeLinear", "DequantizeLinear"}
        return origin(node.input[0]) if node is not None and moved else name

    origins = {name: origin(name) for name in names}
    return origins, {name for name in origins.values() if not _never_negative(name, makers, constants)}


def _lows(
    origins: Mapping[str, str], unknown: Collection[str], seen: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Return the lower bounds of tensors: 0 if they cannot be negative, −∞ if they may be, and none was seen."""
    return {name: seen.get(first, (-math.inf,))[0] if first in unknown else 0.0 for name, first in origins.items()}


def _never_negative(name: str, makers: Mapping[str, NodeProto], constants: Mapping[str, TensorProto]) -> bool:
    node = makers.get(name)
    if node is None:
        return False
    if node.op_type == "Clip":
        least = constants.get(node.input[1]) if len(node.input) > 1 else None
        return least is not None and float(numpy_helper.to_array(least)) >= 0
    if node.op_type in MERGES:
        return all(_never_negative(read, makers, constants) for read in node.input)
    return node.op_type in {"Relu", "Sigmoid", "Softmax"} or (
        node.op_type in KEEPS_SIGN and _never_negative(node.input[0], makers, constants)
    )


def _insert(proto: ModelProto, added: Mapping[str, Sequence[NodeProto]]) -> None:
    """Insert nodes after the producers of the named tensors."""
    nodes: list[NodeProto] = []
    waiting = list(reversed(proto.graph.node))
    while waiting:
        node = waiting.pop()
        nodes.append(type(node).FromString(node.SerializeToString()))
        waiting += (new for name in node.output for new in reversed(added.get(name, ())))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def _keep_activations_apart(proto: ModelProto) -> None:
    """Write the ReLU after a layer with INT4 weights as a maximum.

    ONNX Runtime would fuse both before it looks for INT4, and restore the weights in every run.
    """
    stored = {c.name for c in proto.graph.initializer if c.data_type == TensorProto.INT4}
    restored = {n.output[0] for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored}
    made = {n.output[0] for n in proto.graph.node if n.op_type in {"Gemm", "MatMul"} and n.input[1] in restored}
    made |= {n.output[0] for n in proto.graph.node if n.op_type == "Add" and made.intersection(n.input)}
    after = [node for node in proto.graph.node if node.op_type == "Relu" and node.input[0] in made]
    for node in after:
        node.op_type = "Max"
        node.input.append("autocompress_nothing")
    if after:
        proto.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "autocompress_nothing"))


def _narrow_weights(proto: ModelProto) -> None:
    """Shrink integer weights and grow their scales where sums of products or a bias would overflow."""
    constants = {i.name: i for i in proto.graph.initializer}
    dequantize = {n.output[0]: n for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    readers: dict[str, list[NodeProto]] = defaultdict(list)  # of each weight: a layer may run twice
    for node in proto.graph.node:
        if node.op_type in WEIGHTED and all(name in dequantize for name in node.input[:2]):
            readers[node.input[1]].append(node)
    for name, layers in readers.items():
        weight = dequantize[name]
        if weight.input[0] not in constants:
            continue
        integers, scale = (numpy_helper.to_array(constants[constant]) for constant in weight.input[:2])
        axis = next((a.i for a in weight.attribute if a.name == "axis"), 1)
        depthwise = all(_depthwise(node, integers.shape) for node in layers)
        factors = np.ones(integers.shape[axis], np.float32) if depthwise else _overflow(integers, axis)
        for node in layers:
            if len(node.input) > 2 and node.input[2] in constants:
                step = numpy_helper.to_array(constants[dequantize[node.input[0]].input[1]])
                bias = np.abs(numpy_helper.to_array(constants[node.input[2]]).astype(np.float64))
                factors = np.maximum(factors, bias / (LARGEST_BIAS * step * scale))
        factors = factors.astype(np.float32)
        shape = [-1 if i == axis % integers.ndim else 1 for i in range(integers.ndim)]
        smaller = np.rint(integers / factors.reshape(shape)).astype(np.int8)
        constants[weight.input[0]].CopyFrom(numpy_helper.from_array(smaller, weight.input[0]))
        constants[weight.input[1]].CopyFrom(numpy_helper.from_array(scale * factors, weight.input[1]))


def _overflow(integers: NDArray[np.int8], axis: int) -> NDArray[np.float32]:
    """Return for each output channel the factor by which its weights must shrink, at least 1.

    Products are added in pairs, input channels innermost: 255 times two weights must fit. Where they do not, they
    become smaller by one more than they must, which rounding may add again.
    """
    rows = np.moveaxis(np.moveaxis(integers, axis, 0), 1, -1)
    most = np.abs(pair_sums(rows.astype(np.int32))).max(1, initial=0)
    return np.where(most > PAIR, most / (PAIR - 1), 1).astype(np.float32)


def _depthwise(node: NodeProto, shape: Sequence[int]) -> bool:
    """Return whether a node is a depthwise convolution of images: kernels add its products in 32 bits."""
    group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return node.op_type == "Conv" and len(shape) == 4 and tuple(shape[:2]) == (group, 1)


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
        values = {"quantized": bias.astype(np.int32), "scale": scale.astype(np.float32)}
        values["zero"] = np.zeros(scale.shape, np.int32)
        graph.initializer.extend(numpy_helper.from_array(v, f"{name}_{suffix}") for suffix, v in values.items())
        inputs = [f"{name}_{suffix}" for suffix in values]
        added.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_DQ", axis=0))
        node.input[2] = f"{name}_dequantized"
    nodes = [type(n).FromString(n.SerializeToString()) for n in (*added, *graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(graph)
