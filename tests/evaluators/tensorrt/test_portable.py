"""The program that serves a model with TensorRT alone, as far as that goes without a GPU: built for real, never run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.evaluators.portable import script, tensorrt

trt: Any = pytest.importorskip("tensorrt_rtx", reason="NVIDIA's builder is not installed")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a linear network with a free batch."""
    weight = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("input", 16), ("output", 4))
    )
    node = helper.make_node("MatMul", ["input", "weight"], ["output"])
    graph = helper.make_graph([node], "net", [x], [y], [numpy_helper.from_array(weight, "weight")])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_its_engine_is_built_for_the_first_batch(model: Path) -> None:
    """NVIDIA's builder takes the file with the inputs' shapes; another file is refused."""
    logger = trt.Logger(trt.Logger.ERROR)
    assert bytes(tensorrt._plan(trt, logger, model, [np.zeros((8, 16), np.float32)]))
    model.write_bytes(b"nonsense")
    with pytest.raises(RuntimeError, match=r"cannot read model\.onnx"):
        tensorrt._plan(trt, logger, model, [np.zeros((8, 16), np.float32)])


def test_what_it_calls_exists() -> None:
    """Every attribute of the engine, its context and CUDA that the program names is one of theirs."""
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    owners = {"engine": trt.ICudaEngine, "context": trt.IExecutionContext, "cuda": cuda, "trt": trt}
    named = [
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(script("tensorrt", file="model.onnx")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in owners
    ]
    assert {owner for owner, _ in named} == set(owners)
    assert [(owner, name) for owner, name in named if not hasattr(owners[owner], name)] == []
