"""Weight-only INT4: linear layers hold their weights in 4 bits and compute in float."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper, version_converter

from ...errors import InfeasibleError, gist

OPSET = 21
"""The first operator set whose ``DequantizeLinear`` takes INT4 and one scale for a block of weights."""

BLOCKS = (64, 32, 16)
"""How many weights along the inputs share a scale: the first that divides them, else all of a row."""


def four_bits(artefact: bytes) -> bytes:
    """Return an ONNX file whose linear layers in float hold their weights in 4 bits.

    Layers that compute in INT8 stay as they are. A file that has 4-bit weights already is returned unchanged.

    Raises:
        InfeasibleError: there is no linear layer, or the network cannot be written in a later operator set.
    """
    try:
        proto = onnx.load_from_string(artefact)
    except Exception as error:  # protobuf's exceptions differ between its versions
        raise InfeasibleError("OpenVINO cannot load the model: it is no ONNX file.", rung="build") from error
    if any(weight.data_type == TensorProto.INT4 for weight in proto.graph.initializer):
        return artefact
    floats = {w.name for w in proto.graph.initializer if w.data_type == TensorProto.FLOAT and len(w.dims) == 2}
    integers = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    if not any(_is_linear(node, floats | integers) for node in proto.graph.node):
        raise InfeasibleError("the network has no linear layer whose weights could be 4 bits wide.", rung="build")
    if not any(_is_linear(node, floats) for node in proto.graph.node):
        return artefact
    if next(known.version for known in proto.opset_import if known.domain in ("", "ai.onnx")) < OPSET:
        try:
            proto = version_converter.convert_version(proto, OPSET)
        except Exception as error:  # it fails in any way
            reason = f"the network cannot be written in ONNX operator set {OPSET}: {gist(error)}."
            raise InfeasibleError(reason, rung="build") from error
    _store(proto, floats)
    onnx.checker.check_model(proto)
    stored: bytes = proto.SerializeToString()
    return stored


def quantize_q4_0(weight: NDArray[np.float32], size: int) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
    """Return a weight of shape (outputs, inputs) as integers in −8…7, and scales of shape (outputs, blocks).

    A block's weight of the largest magnitude becomes −8 exactly, whatever its sign (the scale has the other one), so
    that all 16 levels are used; as Q4_0 of llama.cpp.
    """
    blocks = weight.reshape(len(weight), -1, size)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2, keepdims=True), axis=2)
    scale = np.where(largest == 0, np.float32(1), largest / np.float32(-8))
    integers = np.clip(np.rint(blocks / scale), -8, 7).reshape(weight.shape)
    return integers.astype(helper.tensor_dtype_to_np_dtype(TensorProto.INT4)), scale[..., 0]


def _is_linear(node: NodeProto, weights: set[str]) -> bool:
    return node.op_type in ("Gemm", "MatMul") and node.input[1] in weights


def _store(proto: onnx.ModelProto, floats: set[str]) -> None:
    """Replace the weights of linear layers by INT4 and a ``DequantizeLinear`` that makes a tensor of their name."""
    graph = proto.graph
    constants = {weight.name: weight for weight in graph.initializer}
    linear = {node.input[1]: node for node in graph.node if _is_linear(node, floats)}
    restore = []
    for name, node in linear.items():
        by_output = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        weight = numpy_helper.to_array(constants.pop(name))
        weight = weight if by_output else weight.T
        size = next((block for block in BLOCKS if weight.shape[1] % block == 0), weight.shape[1])
        parts = {}
        for suffix, values in zip(("int4", "scale"), quantize_q4_0(weight, size), strict=True):
            parts[f"{name}_{suffix}"] = np.ascontiguousarray(values if by_output else values.T)
        constants.update({part: numpy_helper.from_array(values, part) for part, values in parts.items()})
        axis = 1 if by_output else 0
        restore.append(helper.make_node("DequantizeLinear", [*parts], [name], f"{name}_DQ", axis=axis, block_size=size))
    for field, items in ((graph.node, [*restore, *graph.node]), (graph.initializer, [*constants.values()])):
        copies = [type(item).FromString(item.SerializeToString()) for item in items]
        del field[:]
        field.extend(copies)
