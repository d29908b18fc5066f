"""Small ONNX files."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear(*, width: int = 4, int8: bool = False, rows: int | str = "n", dtype: int = TensorProto.FLOAT) -> bytes:
    """Return an ONNX file of ``y = float(x) @ weight`` with a square weight, stored as INT8 or as float."""
    weight = np.random.default_rng(0).integers(-100, 100, (width, width)).astype(np.int8)
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["float", "weight"], ["y"]),
    ]
    constants = [numpy_helper.from_array(weight.astype(np.float32), "weight")]
    if int8:
        nodes.insert(0, helper.make_node("DequantizeLinear", ["stored", "scale"], ["weight"]))
        constants = [numpy_helper.from_array(weight, "stored"), numpy_helper.from_array(np.float32(1), "scale")]
    x = helper.make_tensor_value_info("x", dtype, [rows, width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, width])
    graph = helper.make_graph(nodes, "linear", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
