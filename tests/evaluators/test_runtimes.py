"""The contract of every runtime."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import InfeasibleError, UsageError
from autocompress.evaluators.runtimes import RUNTIMES, Runtime, load
from autocompress.evaluators.runtimes.fake import RUNTIME as FAKE

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


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Return every runtime in turn."""
    return load(request.param)


@pytest.mark.parametrize("threads", [1, 2])
def test_engine_infers_what_the_model_says(runtime: Runtime, threads: int) -> None:
    """One array comes back for each output."""
    x = np.ones((2, 4), dtype=np.float32)
    with runtime.build(linear(WEIGHT), threads=threads) as engine:
        (y,) = engine.infer([x])
    np.testing.assert_allclose(y, x @ WEIGHT)


def test_flavour_keeps_a_float_model(runtime: Runtime) -> None:
    """Only quantized layers are rewritten."""
    x = np.ones((2, 4), dtype=np.float32)
    with runtime.build(runtime.flavour(linear(WEIGHT)), threads=1) as engine:
        (y,) = engine.infer([x])
    np.testing.assert_allclose(y, x @ WEIGHT)


def test_refused_model_is_infeasible(runtime: Runtime) -> None:
    """Bytes that are no model end at the rung of building, in one sentence."""
    with pytest.raises(InfeasibleError) as caught, runtime.build(b"garbage", threads=1):
        pass
    assert caught.value.rung == "build"
    assert caught.value.reason.endswith(".")
    assert "\n" not in caught.value.reason


def test_description_has_versions_and_device(runtime: Runtime) -> None:
    """Numbers without them cannot be compared."""
    described = runtime.describe()
    assert {"onnxruntime", "python", "platform", "cpu", "cores"} <= set(described)
    assert all(described.values())


def test_name_and_capabilities_agree(runtime: Runtime) -> None:
    """The table of a runtime bears its name, and float32 is always there."""
    assert runtime.capabilities.runtime == runtime.name
    assert 32 in runtime.capabilities.bits


@pytest.mark.parametrize("name", RUNTIMES)
def test_importing_a_runtime_is_light(name: str) -> None:
    """Neither torch, ray nor the runtime's own package is loaded before it is used."""
    code = (
        f"import sys; from autocompress.evaluators.runtimes import load; load({name!r}); "
        "print([heavy for heavy in ('torch', 'ray', 'onnx', 'onnxruntime') if heavy in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_runtime_is_answered_with_the_offer() -> None:
    """The message names what there is, without the fake."""
    with pytest.raises(UsageError, match=r"one of: onnxruntime; got 'tpu'"):
        load("tpu")


def test_fake_latency_counts_weights_and_nodes() -> None:
    """It is known beforehand, and INT8 weights cost less."""
    assert FAKE.latency_ns(linear(WEIGHT)) == 20_000 + 12 * 10
    assert FAKE.latency_ns(linear(WEIGHT, int8=True)) == 20_000 + 12 * 4


def test_fake_latency_of_garbage_is_infeasible() -> None:
    """The fake refuses what a runtime would refuse."""
    with pytest.raises(InfeasibleError, match="no ONNX file"):
        FAKE.latency_ns(b"garbage")
