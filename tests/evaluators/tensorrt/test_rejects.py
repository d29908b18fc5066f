"""What NVIDIA's builder refuses, in its own words: the reasons behind the layout of the canonical file.

Where TensorRT for RTX takes what looks wrong, the test says what it makes of it.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike, NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from autocompress.compressors.onnx_files.number_formats import float8, half, int4_weights
from autocompress.errors import InfeasibleError
from autocompress.evaluators.tensorrt.build import BuildOptions, Built, build

NEEDS = "needs NVIDIA's builder: pip install 'tensorrt-rtx-cu13==1.7.*'"

trt: Any = pytest.importorskip("tensorrt_rtx", reason=NEEDS)

WEIGHT = np.random.default_rng(0).integers(-100, 100, (64, 8)).astype(np.int8)
FILTER = np.ones((8, 64, 1, 1), np.int8)
INT8 = np.int8(0)

PAIR = {"step": np.float32(0.1), "zero": INT8}
LAYER = {"weight": WEIGHT, "scale": np.float32(0.01), "weight_zero": INT8}


def node(kind: str, *inputs: str, to: str, **attributes: int) -> NodeProto:
    """Return a node that bears the name of its output."""
    return helper.make_node(kind, inputs, [to], to, **attributes)


def model(nodes: list[NodeProto], constants: dict[str, Any], *, opset: int = 17, images: bool = False) -> bytes:
    """Return a file with the input ``x`` of 64 features and the output ``y``."""
    shapes = {"x": (1, 64, 4, 4) if images else (4, 64), "y": None}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "rejected", [x], [y], stored)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(proto.SerializeToString())


def quantized(
    *, zero: ArrayLike = INT8, weight: NDArray[Any] = WEIGHT, weight_zero: ArrayLike = INT8, bias: bool = False
) -> bytes:
    """Return a linear layer whose input and weight are rounded, and, on request, its bias to INT32."""
    nodes = [
        node("QuantizeLinear", "x", "step", "zero", to="rounded"),
        node("DequantizeLinear", "rounded", "step", "zero", to="input"),
        node("DequantizeLinear", "weight", "scale", "weight_zero", to="w"),
    ]
    constants = {**PAIR, "zero": zero, **LAYER, "weight": weight, "weight_zero": weight_zero}
    if bias:
        constants |= {"bias": np.arange(8, dtype=np.int32), "product": np.float32(0.001), "bias_zero": np.int32(0)}
        nodes.append(node("DequantizeLinear", "bias", "product", "bias_zero", to="b"))
    return model([*nodes, node("Gemm", "input", "w", *(["b"] if bias else []), to="y")], constants)


def with_integers(kind: str) -> bytes:
    """Return a file with one of ONNX's operators on integers."""
    nodes = [node("QuantizeLinear", "x", "step", "zero", to="rounded")]
    if kind == "MatMulInteger":
        nodes += [node(kind, "rounded", "weight", to="sums"), node("Cast", "sums", to="y")]
        nodes[-1].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
        return model(nodes, {**PAIR, "weight": WEIGHT})
    weights = ("weight", "scale", "weight_zero")
    nodes.append(node(kind, "rounded", "step", "zero", *weights, "step", "zero", to="made"))
    nodes.append(node("DequantizeLinear", "made", "step", "zero", to="y"))
    images = kind == "QLinearConv"
    return model(nodes, {**PAIR, **LAYER, "weight": FILTER if images else WEIGHT}, images=images)


def dynamic() -> bytes:
    """Return a file that finds its range at each run."""
    quantize = helper.make_node("DynamicQuantizeLinear", ["x"], ["rounded", "step", "zero"], "dynamic")
    return model([quantize, node("DequantizeLinear", "rounded", "step", "zero", to="y")], {})


def unsigned_int4() -> bytes:
    """Return a file with weights in UINT4."""
    constants = {"weight": np.ones((64, 8), ml_dtypes.uint4), "scale": np.ones((1, 8), np.float32)}
    weight = node("DequantizeLinear", "weight", "scale", to="w", axis=0, block_size=64)
    return model([weight, node("MatMul", "x", "w", to="y")], constants, opset=21)


def linear(weight: NDArray[Any]) -> bytes:
    """Return a linear layer on float32 with a weight of some type."""
    return model([node("MatMul", "x", "weight", to="y")], {"weight": weight})


UNSIGNED = (WEIGHT.astype(np.int16) + 128).astype(np.uint8)

REJECTED = {
    "zero point 3 in INT8": (quantized(zero=np.int8(3)), "'rounded' (QuantizeLinear)", "Non-zero zero point"),
    "zero point of a weight": (quantized(weight_zero=np.int8(3)), "'w' (DequantizeLinear)", "Non-zero zero point"),
    "bias in INT32": (quantized(bias=True), "'b' (DequantizeLinear)", "input has type Int32 but must have type"),
    "QLinearConv": (with_integers("QLinearConv"), "'made' (QLinearConv)", "UNSUPPORTED_NODE"),
    "QLinearMatMul": (with_integers("QLinearMatMul"), "'made' (QLinearMatMul)", "UNSUPPORTED_NODE"),
    "MatMulInteger": (with_integers("MatMulInteger"), "'sums' (MatMulInteger)", "UNSUPPORTED_NODE"),
    "DynamicQuantizeLinear": (dynamic(), "'dynamic' (DynamicQuantizeLinear)", "UNSUPPORTED_NODE"),
    "UINT4": (unsigned_int4(), "INVALID_GRAPH", "Failed to import initializer: weight"),
    "FP16 with float32": (
        linear(WEIGHT.astype(np.float16)),
        "'y' (MatMul)",
        "must have same input types. `A` is of type Float and `B` is of type Half",
    ),
    "garbage": (b"garbage", "MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model"),
    "garbage that parses": (b"\x00\xff" * 50, "the network in it", "has no outputs"),
    "nothing": (b"", "the network in it", "has no outputs"),
}


def built(file: bytes, capability: str = "SM89") -> Built:
    """Return what NVIDIA's builder makes of a file."""
    return build(trt, file, options=BuildOptions(capabilities=(capability,)))


@pytest.mark.parametrize("name", REJECTED)
def test_parser_refuses(name: str) -> None:
    """The reason says where, and quotes the parser."""
    file, where, words = REJECTED[name]
    with pytest.raises(InfeasibleError) as caught:
        built(file)
    assert caught.value.rung == "build"
    assert caught.value.reason.startswith("TensorRT cannot read the model: ")
    assert where in caught.value.reason
    assert words in caught.value.reason


LACKS = "target(s) {}, because the model contains HW-specific datatypes: {}"

HARDWARE = {
    "FP8": (float8(quantized()), "SM86", LACKS.format("sm86", "fp8_e4m3")),
    "FP8 between FP16": (half(float8(quantized())), "SM86", LACKS.format("sm86", "fp8_e4m3")),
    "INT4": (int4_weights(linear(WEIGHT.astype(np.float32))), "SM75", LACKS.format("sm75", "int4")),
    "float32": (linear(WEIGHT.astype(np.float32)), "SM75", "for Turing (SM75): FP32 GEMM is not supported"),
    "INT8 between float32": (quantized(), "SM75", "for Turing (SM75): FP32 GEMM is not supported"),
}


@pytest.mark.parametrize("name", HARDWARE)
def test_builder_refuses_what_the_gpu_has_not(name: str) -> None:
    """The reason names the GPU and what it lacks; on a GPU that has it the same file is taken."""
    file, capability, words = HARDWARE[name]
    with pytest.raises(InfeasibleError) as caught:
        built(file, capability)
    assert caught.value.rung == "build"
    assert words in caught.value.reason
    assert built(file).plan


def test_what_the_rejects_differ_from_is_taken() -> None:
    """A linear layer with zero points 0 in INT8, and one in float32, are built."""
    assert built(quantized()).plan
    assert built(linear(WEIGHT.astype(np.float32))).plan


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(quantized(zero=np.uint8(0)), id="zero point 0"),
        pytest.param(quantized(zero=np.uint8(128)), id="zero point 128"),
        pytest.param(quantized(weight=UNSIGNED, weight_zero=np.uint8(128)), id="weight"),
    ],
)
def test_uint8_is_refused_before_the_builder_is_asked(file: bytes) -> None:
    """It would take zero point 0 and clip all above 127 steps, with nothing but a warning."""
    with pytest.raises(InfeasibleError, match="TensorRT reads UINT8 as INT8"):
        built(file)


def test_double_is_taken() -> None:
    """Float64 does not exist on TensorRT's side, and is narrowed without a refusal."""
    proto = onnx.load_from_string(linear(WEIGHT.astype(np.float64)))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    assert built(proto.SerializeToString()).plan
