"""Recurrent layers in ONNX: their weights as integers in the canonical file, and as ONNX Runtime's kernel wants them.

This module imports no torch: runtimes use it in processes that only measure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..initializers import drop_unread, read

RECURRENT = {"LSTM", "GRU"}

WEIGHTS = (1, 2)
"""Positions among a node's inputs of its input weights and its recurrent weights."""

KERNEL_INPUTS = 8
"""Inputs of an LSTM, after which ONNX Runtime's kernel takes scales and zero points."""


def integer_weights(proto: ModelProto, names: Collection[str]) -> ModelProto:
    """Return a copy in which weights of LSTM and GRU nodes are INT8, with one scale for each row of each gate.

    They become floats again before the node reads them, so that any runtime can serve the file. The integers are a
    matrix of all directions' rows, since a `DequantizeLinear` has scales along one axis.

    Args:
        proto: a float graph.
        names: of the initializers that hold the weights, of shape (directions, gates × hidden, inputs).

    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    constants = {constant.name: constant for constant in copy.graph.initializer}
    nodes = []
    for name in sorted(names):
        integers, scale = _rounded(numpy_helper.to_array(constants[name]))
        parts: dict[str, NDArray[np.generic]] = {
            "quantized": integers.reshape(-1, integers.shape[-1]),
            "scale": scale.reshape(-1),
            "zero": np.zeros(scale.size, np.int8),
            "shape": np.array(integers.shape, np.int64),
        }
        copy.graph.initializer.extend(numpy_helper.from_array(v, f"{name}_{part}") for part, v in parts.items())
        inputs = [f"{name}_quantized", f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{name}_rows"], f"{name}_DQ", axis=0))
        shaped = [f"{name}_rows", f"{name}_shape"]
        nodes.append(helper.make_node("Reshape", shaped, [f"{name}_dequantized"], f"{name}_Reshape"))
    for node in copy.graph.node:
        for position in WEIGHTS if node.op_type in RECURRENT else ():
            if node.input[position] in names:
                node.input[position] += "_dequantized"
    return _rebuilt(copy, [*nodes, *copy.graph.node])


def _rounded(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    scale = np.maximum(np.abs(weight).max(-1), np.float32(1e-8)) / np.float32(127)
    return np.clip(np.rint(weight / scale[..., None]), -127, 127).astype(np.int8), scale


@dataclass(frozen=True)
class _Stored:
    """A weight of `integer_weights`: integers of shape (directions, gates × hidden, inputs), and scales of its rows."""

    name: str
    integers: NDArray[np.int8]
    scale: NDArray[np.float32]


def dynamic(canonical: bytes) -> bytes:
    """Return the file with INT8 LSTMs as ONNX Runtime's own nodes, which compute in integers.

    Its kernel rounds the inputs of a run, and each step's hidden state, to UINT8 over the range they have. Weights are
    narrowed to 7 bits, for the reason in `onnxruntime_layout.unsigned_activations`. A GRU has no such
    kernel: its weights stay integers in the file, and ONNX Runtime turns them into floats once, when it loads.
    """
    proto = onnx.load_from_string(canonical)
    stored = _stored(proto)
    if not stored:
        return canonical
    rows = {f"{weight.name}_rows" for weight in stored.values()}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        if node.op_type == "LSTM" and all(node.input[position] in stored for position in WEIGHTS):
            weights = [stored[node.input[position]] for position in WEIGHTS]
            proto.graph.initializer.extend(tensor for weight in weights for tensor in _narrowed(weight))
            nodes.append(_kernel(node, weights))
        elif node.op_type == "DequantizeLinear" and node.output[0] in rows:
            nodes += _unfolded(proto, node)
        else:
            nodes.append(node)
    if not any(opset.domain == "com.microsoft" for opset in proto.opset_import):
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    flavoured: bytes = _rebuilt(proto, nodes).SerializeToString()
    return flavoured


def _stored(proto: ModelProto) -> dict[str, _Stored]:
    """Return the integer weights that LSTM and GRU nodes read, by the names of the floats they read."""
    constants = {constant.name: constant for constant in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    found = {}
    for node in proto.graph.node:
        for name in (node.input[position] for position in WEIGHTS if node.op_type in RECURRENT):
            reshape = makers.get(name)
            rows = makers.get(reshape.input[0]) if reshape is not None and reshape.op_type == "Reshape" else None
            if reshape is None or rows is None or rows.op_type != "DequantizeLinear":
                continue
            integers, scale, shape = (
                numpy_helper.to_array(constants[c]) for c in (rows.input[0], rows.input[1], reshape.input[1])
            )
            stem = name.removesuffix("_dequantized")
            found[name] = _Stored(stem, integers.reshape(shape), scale.reshape(shape[:2]))
    return found


def _narrowed(weight: _Stored) -> Iterable[TensorProto]:
    """Return a weight in the kernel's layout: columns first, with scales and zero points for each direction's rows."""
    halved = np.rint(weight.integers / 2).astype(np.int8)
    parts: dict[str, NDArray[np.generic]] = {
        "kernel": np.ascontiguousarray(halved.transpose(0, 2, 1)),
        "kernel_scale": weight.scale * np.float32(2),
        "kernel_zero": np.zeros(weight.scale.shape, np.int8),
    }
    return [numpy_helper.from_array(value, f"{weight.name}_{part}") for part, value in parts.items()]


def _kernel(node: NodeProto, weights: Iterable[_Stored]) -> NodeProto:
    inputs = [*node.input, *[""] * (KERNEL_INPUTS - len(node.input))]
    for position, weight in zip(WEIGHTS, weights, strict=True):
        inputs[position] = f"{weight.name}_kernel"
        inputs += [f"{weight.name}_kernel_scale", f"{weight.name}_kernel_zero"]
    made = helper.make_node("DynamicQuantizeLSTM", inputs, node.output, node.name, domain="com.microsoft")
    made.attribute.extend(attribute for attribute in node.attribute if attribute.name != "layout")
    return made


def _unfolded(proto: ModelProto, node: NodeProto) -> list[NodeProto]:
    """Return a cast and a product in place of a DequantizeLinear, which ONNX Runtime would run each time."""
    constants = {constant.name: constant for constant in proto.graph.initializer}
    integers, scale, rows = node.input[0], node.input[1], node.output[0]
    column = numpy_helper.to_array(constants[scale]).reshape(-1, 1)
    proto.graph.initializer.append(numpy_helper.from_array(column, f"{rows}_scales"))
    return [
        helper.make_node("Cast", [integers], [f"{rows}_cast"], f"{rows}_Cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{rows}_cast", f"{rows}_scales"], [rows], f"{rows}_Mul"),
    ]


def _rebuilt(proto: ModelProto, nodes: Iterable[NodeProto]) -> ModelProto:
    """Replace a graph's nodes; drop nodes and constants that nothing reads."""
    kept: list[NodeProto] = []
    wanted = {output.name for output in proto.graph.output}
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            kept.append(NodeProto.FromString(node.SerializeToString()))
            wanted.update(read(node))
    del proto.graph.node[:]
    proto.graph.node.extend(reversed(kept))
    drop_unread(proto.graph)
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto)
    return proto
