"""How runtimes are named and found, and the fake one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import InfeasibleError, UsageError
from autocompress.evaluators.runtimes import RUNTIMES, load
from autocompress.evaluators.runtimes.fake import FakeRuntime

FAKE = FakeRuntime()

HEAVY = ("torch", "ray", "onnx", "onnxruntime", "openvino", "ai_edge_litert", "MNN", "tensorrt")

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


def linear(weight: np.ndarray, *, int8: bool = False) -> bytes:
    """Return an ONNX file of ``x @ weight``, whose weight may be stored as INT8 with scale 1."""
    stored = "stored" if int8 else "weight"
    initializers = [numpy_helper.from_array(weight.astype(np.int8) if int8 else weight, stored)]
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    if int8:
        initializers.append(numpy_helper.from_array(np.array(1.0, dtype=np.float32), "scale"))
        nodes.insert(0, helper.make_node("DequantizeLinear", ["stored", "scale"], ["weight"]))
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])
        for name, size in zip("xy", weight.shape, strict=True)
    )
    graph = helper.make_graph(nodes, "linear", [x], [y], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.parametrize("name", RUNTIMES)
def test_importing_a_runtime_is_light(name: str) -> None:
    """Neither torch, ray nor the runtime's own package is loaded before it is used."""
    code = (
        f"import sys; from autocompress.evaluators.runtimes import load; load({name!r}); "
        f"print([heavy for heavy in {HEAVY} if heavy in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_runtime_is_answered_with_the_offer() -> None:
    """The message names what there is, without the fake."""
    with pytest.raises(UsageError, match=r"one of: onnxruntime, .*; got 'tpu'"):
        load("tpu")


def test_fake_latency_counts_weights_and_nodes() -> None:
    """It is known beforehand, and INT8 weights cost less."""
    assert FAKE.latency_ns(linear(WEIGHT)) == 20_000 + 12 * 10
    assert FAKE.latency_ns(linear(WEIGHT, int8=True)) == 20_000 + 12 * 4


def test_fake_latency_of_garbage_is_infeasible() -> None:
    """The fake refuses what a runtime would refuse."""
    with pytest.raises(InfeasibleError, match="no ONNX file"):
        FAKE.latency_ns(b"garbage")
