"""What TensorRT's parser takes although it is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import InfeasibleError
from autocompress.evaluators.tensorrt.check import check

KERNEL = (8, 3, 1, 1)

MATRIX = (3, 8)


def network(operator: str, shape: tuple[int, ...], axis: int, scales: int, **attributes: int) -> bytes:
    """Return an ONNX file of one layer whose INT8 weight has some scales along an axis."""
    nodes = [
        helper.make_node("DequantizeLinear", ["stored", "scale"], ["w"], name="weights", axis=axis),
        helper.make_node(operator, ["x", "w"], ["y"], **attributes),
    ]
    initializers = [
        numpy_helper.from_array(np.ones(shape, np.int8), "stored"),
        numpy_helper.from_array(np.ones(scales, np.float32), "scale"),
    ]
    return _file(nodes, initializers, rank=len(shape))


def quantized_input(scales: int) -> bytes:
    """Return an ONNX file that rounds its input with some scales."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="rounds", axis=1),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=1),
    ]
    shape = (scales,) if scales > 1 else ()
    initializers = [
        numpy_helper.from_array(np.ones(shape, np.float32), "scale"),
        numpy_helper.from_array(np.zeros(shape, np.int8), "zero"),
    ]
    return _file(nodes, initializers, rank=4)


def _file(nodes: list[object], initializers: list[object], rank: int) -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"] * rank) for name in "xy")
    graph = helper.make_graph(nodes, "one layer", [x], [y], initializers)
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]).SerializeToString())


@pytest.mark.parametrize(
    "onnx",
    [
        network("Conv", KERNEL, 0, 8),
        network("ConvTranspose", KERNEL, 1, 3),
        network("Gemm", MATRIX, 1, 8),
        network("Gemm", MATRIX, 0, 3, transB=1),
        network("MatMul", MATRIX, 1, 8),
        network("MatMul", MATRIX, -1, 8),
        network("Conv", KERNEL, 1, 1),
        quantized_input(1),
        b"garbage",
        b"",
    ],
)
def test_what_is_right_passes(onnx: bytes) -> None:
    """One scale an output channel of a weight, one a tensor that is computed; no file is the parser's to refuse."""
    check(onnx)


@pytest.mark.parametrize(
    ("onnx", "reason"),
    [
        (network("Conv", KERNEL, 1, 3), r"3 scales along axis 1 .* whose output channels are along axis 0"),
        (network("ConvTranspose", KERNEL, 0, 8), "whose output channels are along axis 1"),
        (network("Gemm", MATRIX, 0, 3), "whose output channels are along axis 1"),
        (network("Gemm", MATRIX, 1, 8, transB=1), "whose output channels are along axis 0"),
        (network("MatMul", MATRIX, 0, 3), "whose output channels are along axis 1"),
        (network("Conv", KERNEL, 0, 3), r"3 scales along axis 0 of a weight of shape \(8, 3, 1, 1\)\."),
        (quantized_input(3), "with one scale; QuantizeLinear 'rounds' has 3 scales: use one"),
    ],
)
def test_scales_along_the_wrong_axis_are_refused(onnx: bytes, reason: str) -> None:
    """TensorRT builds an engine that computes something else."""
    with pytest.raises(InfeasibleError, match=reason) as caught:
        check(onnx)
    assert caught.value.rung == "build"
    assert caught.value.reason.endswith(".")
