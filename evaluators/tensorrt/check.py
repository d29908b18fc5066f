"""What TensorRT's parser takes although it is wrong.

Scales that are not one for each output channel are misread; unsigned integers are read as signed ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...errors import InfeasibleError

if TYPE_CHECKING:
    import onnx as onnx_package

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def check(onnx: bytes) -> None:
    """Check the scales and zero points of quantizers; bytes that are no ONNX file are left to the parser.

    Raises:
        InfeasibleError: a tensor has one scale a channel along an axis where TensorRT would misread them, or is UINT8.
    """
    import onnx as package

    try:
        graph = package.load_from_string(onnx).graph
    except Exception:  # protobuf's exceptions differ between its versions
        return
    dims = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    dims |= {node.output[0]: _constant_dims(node) for node in graph.node if node.op_type == "Constant"}
    unsigned = {weight.name for weight in graph.initializer if weight.data_type == package.TensorProto.UINT8}
    stored = _stored(graph, dims)
    axes = _channel_axes(graph, dims, stored)
    for node in graph.node:
        if node.op_type in QUANTIZERS and unsigned & {*node.input}:
            raise InfeasibleError(
                f"TensorRT reads UINT8 as INT8; {node.op_type} {node.name!r} has UINT8: "
                "compress the network with --runtime tensorrt.",
                rung="build",
            )
        if node.op_type in QUANTIZERS and len(dims.get(node.input[1], ())) == 1 and dims[node.input[1]] != (1,):
            _check_channels(node, dims, stored, axes)


def _check_channels(
    node: onnx_package.NodeProto,
    dims: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, str],
    axes: Mapping[str, int],
) -> None:
    """Check a quantizer that has a vector of scales."""
    (scales,) = dims[node.input[1]]
    where = f"{node.op_type} {node.name!r} has {scales} scales"
    weight = stored.get(node.input[0])
    if weight is None:
        raise InfeasibleError(
            f"TensorRT quantizes a tensor that is computed with one scale; {where}: use one.", rung="build"
        )
    shape = dims[weight]
    axis = _attribute(node, "axis", 1) % len(shape) if shape else 0
    if not shape or shape[axis] != scales:
        raise InfeasibleError(f"{where} along axis {axis} of a weight of shape {shape}.", rung="build")
    expected = axes.get(weight)
    if expected is not None and axis != expected:
        raise InfeasibleError(
            f"{where} along axis {axis} of a weight of shape {shape}, whose output channels are along axis {expected}.",
            rung="build",
        )


def _stored(graph: onnx_package.GraphProto, dims: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the weight behind each tensor that is a weight, or one that went through quantizers."""
    stored = {name: name for name in dims}
    for node in graph.node:
        if node.op_type in (*QUANTIZERS, "Cast") and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    return stored


def _channel_axes(
    graph: onnx_package.GraphProto, dims: Mapping[str, tuple[int, ...]], stored: Mapping[str, str]
) -> dict[str, int]:
    """Return along which axis each weight has its output channels."""
    found: dict[str, int] = {}
    for node in graph.node:
        weight = stored.get(node.input[1]) if len(node.input) > 1 else None
        if weight is None:
            continue
        if node.op_type == "Conv":
            found[weight] = 0
        elif node.op_type == "ConvTranspose":
            found[weight] = 1
        elif node.op_type == "Gemm":
            found[weight] = 0 if _attribute(node, "transB", 0) else 1
        elif node.op_type == "MatMul":
            found[weight] = len(dims[weight]) - 1
    return found


def _attribute(node: onnx_package.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _constant_dims(node: Any) -> tuple[int, ...]:
    return next((tuple(attribute.t.dims) for attribute in node.attribute if attribute.name == "value"), ())
