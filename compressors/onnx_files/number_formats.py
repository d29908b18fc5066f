"""Rewrites an ONNX file into other number formats: FP16, FP8, weights in INT4, weights with a 2:4 pattern.

TensorRT's networks are strongly typed: the precision of each layer is in the file, as explicit casts and Q/DQ pairs,
and nowhere else. Each function takes a float file or the canonical INT8 file (see `qdq.py`) and returns a new one
whose inputs and outputs stay float32. They may be applied one after another: ``half(float8(canonical))``.

This module imports no torch: runtimes use it in processes that only measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from ...errors import InfeasibleError, gist
from ..initializers import drop_unread
from ..quantization.int4 import block_of, quantize_blocks

HALF_MAX = float(np.finfo(np.float16).max)
SINGLE_MAX = float(np.finfo(np.float32).max)
FLOAT8_MAX = 448.0

STAYS_SINGLE = {("Resize", 1), ("Resize", 2), ("Upsample", 1)}
"""Operators with the positions of inputs that ONNX allows in float32 only."""


def half(file: bytes) -> bytes:
    """Return the file with float layers in FP16: weights, biases and everything computed from them.

    Layers between Q/DQ pairs read and write FP16 too, so that INT8 and FP16 meet without casts. Softmax and layer
    norms are no exception: TensorRT accumulates their sums in float32. Scales are rounded up, so that nothing is
    clipped that was not, and weights are rounded again where their scale moved (it does below FP16's normal numbers).

    Raises:
        InfeasibleError: a constant, or the range of a quantized tensor, is beyond FP16's largest number.
    """
    proto = at_opset(file, 19)  # the first whose Q/DQ pairs take FP16
    graph = proto.graph
    _halve_scales(proto)
    single = {n.input[i] for n in graph.node for i in range(len(n.input)) if (n.op_type, i) in STAYS_SINGLE}
    for constant in graph.initializer:
        if constant.data_type == TensorProto.FLOAT and constant.name not in single:
            constant.CopyFrom(_halved(constant, constant.name))
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
                raise InfeasibleError(f"A graph with branches has no FP16 form; {node.name!r} has some.", rung="build")
            if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_halved(attribute.t, node.output[0]))
            if (node.op_type, attribute.name, attribute.i) == ("Cast", "to", TensorProto.FLOAT):
                attribute.i = TensorProto.FLOAT16
    _cast_at_the_edges(proto)
    return _checked(proto)


def float8(canonical: bytes) -> bytes:
    """Return the canonical INT8 file with FP8 (E4M3) in place of INT8, over the same ranges.

    A scale becomes the tensor's largest value over 448. Weights are rounded a second time, from their integers.
    """
    proto = at_opset(canonical, 19)
    constants = {constant.name: constant for constant in proto.graph.initializer}
    pairs = [n for n in _quantizers(proto) if len(n.input) > 2]
    pairs = [n for n in pairs if n.input[2] in constants and constants[n.input[2]].data_type == TensorProto.INT8]
    zeros, scales = {n.input[2] for n in pairs}, {n.input[1] for n in pairs}
    weights = {n.input[0] for n in pairs if n.input[0] in constants}
    for name in scales:
        step = numpy_helper.to_array(constants[name])
        narrower = _up(step.astype(np.float32) * np.float32(127 / FLOAT8_MAX), step.dtype)
        constants[name].CopyFrom(numpy_helper.from_array(narrower, name))
    for name in zeros:
        zero = np.zeros(tuple(constants[name].dims), ml_dtypes.float8_e4m3fn)
        constants[name].CopyFrom(numpy_helper.from_array(zero, name))
    for name in weights:
        value = numpy_helper.to_array(constants[name]).astype(np.float32) * np.float32(FLOAT8_MAX / 127)
        constants[name].CopyFrom(numpy_helper.from_array(value.astype(ml_dtypes.float8_e4m3fn), name))
    return _checked(proto)


def int4_weights(file: bytes, block: int = 128) -> bytes:
    """Return the file with the weights of its float linear layers in INT4, activations as they are.

    Each ``block`` of weights that are summed up for one output shares a scale. The block is halved until it divides
    their number; a layer that no block of at least 64 divides stays as it is.
    """
    proto = at_opset(file, 21)
    constants = {constant.name: constant for constant in proto.graph.initializer}
    made: dict[str, NodeProto] = {}
    for weight in _weights(proto):
        constant = constants[weight.name]
        if weight.node.op_type == "Conv" or constant.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            continue
        value = numpy_helper.to_array(constant)
        size = block_of(value.shape[weight.axis], block)
        if not size:
            continue
        integers, scale = quantize_blocks(value, weight.axis, size)
        name = weight.name
        if name not in made:
            proto.graph.initializer.append(numpy_helper.from_array(integers, f"{name}_quantized"))
            proto.graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
            made[name] = helper.make_node(
                "DequantizeLinear",
                [f"{name}_quantized", f"{name}_scale"],
                [f"{name}_dequantized"],
                f"{name}_DQ",
                axis=weight.axis,
                block_size=size,
            )
        weight.node.input[1] = f"{name}_dequantized"
    _prepend(proto, list(made.values()))
    return _checked(proto)


def two_four(file: bytes) -> bytes:
    """Return the file with the two smallest of every four weights set to 0, in layers whose size is a multiple of four.

    The four lie side by side along the axis that is summed up, as sparse tensor cores need it. This is for asking
    what sparsity would gain: without training afterwards it costs accuracy.
    """
    proto = onnx.load_from_string(file)
    constants = {constant.name: constant for constant in proto.graph.initializer}
    for weight in _weights(proto):
        value = numpy_helper.to_array(constants[weight.name])
        if value.shape[weight.axis] % 4 == 0:
            constants[weight.name].CopyFrom(numpy_helper.from_array(sparsened(value, weight.axis), weight.name))
    return _checked(proto)


def sparsened(weight: NDArray[np.generic], axis: int) -> NDArray[np.generic]:
    """Return a weight with the two smallest of every four values along an axis set to 0."""
    moved = np.moveaxis(weight, axis, -1)
    fours = moved.reshape(-1, 4)
    kept = np.argsort(-np.abs(fours.astype(np.float32)), axis=1, kind="stable")[:, :2]
    sparse = np.zeros_like(fours)
    np.put_along_axis(sparse, kept, np.take_along_axis(fours, kept, 1), 1)
    return np.ascontiguousarray(np.moveaxis(sparse.reshape(moved.shape), -1, axis))


def is_two_four(weight: NDArray[np.generic], axis: int) -> bool:
    """Whether of every four weights along an axis at least two are 0.

    >>> is_two_four(np.array([[0, 3, 0, 5]]), 1), is_two_four(np.array([[1, 3, 0, 5]]), 1)
    (True, False)
    """
    if weight.shape[axis] % 4:
        return False
    fours = np.moveaxis(weight, axis, -1).reshape(-1, 4)
    return bool(((fours == 0).sum(1) >= 2).all())


@dataclass(frozen=True)
class _Weight:
    """A stored weight: the layer that multiplies with it, its constant, and the axis that the layer sums over."""

    node: NodeProto
    name: str
    axis: int


def _weights(proto: ModelProto) -> Iterator[_Weight]:
    """Yield the stored weights of layers, in float or behind a DequantizeLinear."""
    constants = {constant.name: constant for constant in proto.graph.initializer}
    stored = {n.output[0]: n.input[0] for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    for node in proto.graph.node:
        if node.op_type not in {"Conv", "Gemm", "MatMul"}:
            continue
        name = stored.get(node.input[1], node.input[1])
        if name not in constants or len(constants[name].dims) < 2:
            continue
        if node.op_type == "MatMul":
            yield _Weight(node, name, len(constants[name].dims) - 2)
        else:
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            yield _Weight(node, name, 1 if node.op_type == "Conv" or transposed else 0)


def _quantizers(proto: ModelProto) -> list[NodeProto]:
    return [node for node in proto.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]


def _halve_scales(proto: ModelProto) -> None:
    """Round scales up to FP16, and round the weights again with those scales."""
    constants = {constant.name: constant for constant in proto.graph.initializer}
    rounded: dict[str, NDArray[np.float32]] = {}
    weights: set[str] = set()
    for node in _quantizers(proto):
        name = node.input[1]
        old = rounded.get(name)
        if old is None:
            if name not in constants or constants[name].data_type != TensorProto.FLOAT:
                continue
            rounded[name] = old = numpy_helper.to_array(constants[name])
            _check_range(node, constants, old)
            constants[name].CopyFrom(numpy_helper.from_array(_up(old, np.float16), name))
        new = numpy_helper.to_array(constants[name])
        if node.input[0] in constants and node.input[0] not in weights:
            weights.add(node.input[0])
            ratio: NDArray[np.float32] = np.divide(old, new, dtype=np.float32)
            _round_again(constants[node.input[0]], _spread(ratio, node, constants[node.input[0]]))


def _up(value: NDArray[np.float32], dtype: DTypeLike) -> NDArray[np.floating]:
    """Round numbers up to a type that may be narrower."""
    nearest = value.astype(dtype)
    return np.asarray(np.where(nearest < value, np.nextafter(nearest, nearest.dtype.type(np.inf)), nearest))


def _check_range(node: NodeProto, constants: Mapping[str, TensorProto], scale: NDArray[np.float32]) -> None:
    typed = next((constants[name] for name in (*node.input[2:], node.input[0]) if name in constants), None)
    largest: dict[int, float] = {TensorProto.FLOAT8E4M3FN: FLOAT8_MAX, TensorProto.INT4: 7}
    reached = float(scale.max()) * largest.get(typed.data_type if typed else TensorProto.INT8, 127)
    if reached > HALF_MAX:
        raise InfeasibleError(
            f"FP16 holds numbers up to {HALF_MAX:g}; the tensor {node.input[0]!r} reaches {reached:g}.", rung="build"
        )


def _spread(scale: NDArray[np.floating], node: NodeProto, weight: TensorProto) -> NDArray[np.floating]:
    """Broadcast scales to a shape that multiplies a weight."""
    given = {a.name: a.i for a in node.attribute}
    axis = given.get("axis", 1)
    if given.get("block_size"):
        return np.repeat(scale, given["block_size"], axis)
    rank = len(weight.dims)
    return scale.reshape([-1 if i == axis % rank else 1 for i in range(rank)]) if scale.size > 1 else scale


def _round_again(weight: TensorProto, ratio: NDArray[np.floating]) -> None:
    stored = numpy_helper.to_array(weight)
    value = stored.astype(np.float32) * ratio
    if weight.data_type != TensorProto.FLOAT8E4M3FN:
        value = np.rint(value)
    weight.CopyFrom(numpy_helper.from_array(value.astype(stored.dtype), weight.name))


def _halved(constant: TensorProto, name: str) -> TensorProto:
    """Return a constant in FP16; infinities stay, and float32's maximum becomes FP16's."""
    value = numpy_helper.to_array(constant)
    beyond = np.abs(value[np.isfinite(value) & (np.abs(value) < SINGLE_MAX)])
    if beyond.max(initial=0) > HALF_MAX:
        raise InfeasibleError(
            f"FP16 holds numbers up to {HALF_MAX:g}; the constant {name!r} has {beyond.max():g}.", rung="build"
        )
    finite = np.where(np.isinf(value), value, np.clip(value, -HALF_MAX, HALF_MAX))
    return numpy_helper.from_array(finite.astype(np.float16), constant.name)


def _cast_at_the_edges(proto: ModelProto) -> None:
    """Cast float32 inputs to FP16 and FP16 outputs to float32; everything between uses the FP16 names."""
    graph = proto.graph
    stored = {constant.name for constant in graph.initializer}
    inputs = [i.name for i in graph.input if _is_single(i) and i.name not in stored]
    outputs = [o.name for o in graph.output if _is_single(o)]
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    halves = {name: _free(f"{name}_half", taken) for name in (*inputs, *outputs)}
    for node in graph.node:
        for names in (node.input, node.output):
            for position, name in enumerate(names):
                names[position] = halves.get(name, name)
    _prepend(proto, [helper.make_node("Cast", [n], [halves[n]], halves[n], to=TensorProto.FLOAT16) for n in inputs])
    graph.node.extend(
        helper.make_node("Cast", [halves[n]], [n], f"{halves[n]}_to_single", to=TensorProto.FLOAT) for n in outputs
    )


def _free(name: str, taken: set[str]) -> str:
    return _free(f"{name}_", taken) if name in taken else name


def _is_single(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _prepend(proto: ModelProto, nodes: list[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in (*nodes, *proto.graph.node)]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def at_opset(file: bytes, version: int) -> ModelProto:
    """Return a file as a graph of at least this operator set."""
    proto = onnx.load_from_string(file)
    if all(opset.version >= version for opset in proto.opset_import if opset.domain == ""):
        return proto
    try:
        converted = version_converter.convert_version(proto, version)
    except Exception as error:  # it raises RuntimeError, and others of its C++ base
        why = gist(error)
        raise InfeasibleError(f"The file cannot be brought to ONNX opset {version}: {why}.", rung="build") from error
    return converted


def _checked(proto: ModelProto) -> bytes:
    """Drop unread constants, run ONNX's check of shapes and types, and return the file."""
    graph = proto.graph
    drop_unread(graph)
    del graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content
