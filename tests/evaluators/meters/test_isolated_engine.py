"""Engines in processes of their own: what a runtime may do there costs one candidate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import InfeasibleError, UsageError
from autocompress.evaluators.meters.isolated_engine import engine
from autocompress.evaluators.meters.latency import Plan, ProcessMeter
from autocompress.evaluators.runtime import Runtime
from autocompress.evaluators.runtimes import load
from autocompress.evaluators.subprocess_protocol import MEMORY

FAULTY = str(Path(__file__).parents[1] / "faulty.py")
X = np.ones((2, 4), dtype=np.float32)
WEIGHT = np.arange(12, dtype=np.int8).reshape(4, 3)
SHORT = Plan(min_windows=2, max_windows=2, gap_s=0.0, min_runs=5, min_window_s=0.01, tolerance=1.0)


def linear(*, int8: bool) -> bytes:
    """Return an ONNX file of ``x @ weight``, with the weight in INT8 or in float."""
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    constants = [numpy_helper.from_array(WEIGHT.astype(np.float32), "weight")]
    if int8:
        nodes.insert(0, helper.make_node("DequantizeLinear", ["stored", "scale"], ["weight"]))
        constants = [numpy_helper.from_array(WEIGHT, "stored"), numpy_helper.from_array(np.float32(1), "scale")]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in (("x", 4), ("y", 3)))
    graph = helper.make_graph(nodes, "linear", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes with a model have two gigabytes."""
    monkeypatch.setenv(MEMORY, "2")


def faulty(variant: str) -> Runtime:
    """Return a runtime that does harm in one way."""
    return load(f"{FAULTY}:{variant}")


def test_an_isolated_engine_computes_the_same() -> None:
    """Arrays go there and come back, time and again, and nothing stays running."""
    with engine(faulty("segfault"), linear(int8=False), threads=1) as remote:
        for x in (X, 2 * X[:1]):
            np.testing.assert_array_equal(remote.infer([x])[0], x @ WEIGHT)
        (child,) = psutil.Process().children()
    assert not child.is_running()


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("segfault", r"crashed with SIGSEGV while the model was run\."),
        ("hang", r"not run within 3 s\."),
        ("memory", r"ran out of memory while the model was run: .*MemoryError"),
    ],
)
def test_harm_is_infeasible(variant: str, reason: str) -> None:
    """A runtime that crashes, hangs or eats memory gives a reason, and nothing stays running."""
    with (
        pytest.raises(InfeasibleError, match=reason),
        engine(faulty(variant), linear(int8=True), threads=1, patience_s=3 if variant == "hang" else 120) as remote,
    ):
        remote.infer([X])
    assert psutil.Process().children() == []


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ("segfault", r"crashed with SIGSEGV while the model was timed\."),
        ("hang", r"not timed within 3 s\."),
        ("memory", r"ran out of memory while the model was timed: .*MemoryError"),
    ],
)
def test_harm_while_timed_is_infeasible(variant: str, reason: str) -> None:
    """So it is in the process that times."""
    meter = ProcessMeter(baseline=linear(int8=False), runtime=faulty(variant).name, inputs=[X], baseline_ms=1.0)
    with pytest.raises(InfeasibleError, match=reason):
        meter.measure(linear(int8=True), SHORT, timeout_s=3 if variant == "hang" else 120)


def test_what_cannot_be_built_is_infeasible() -> None:
    """The runtime's reason comes across."""
    with (
        pytest.raises(InfeasibleError, match="cannot load the model") as caught,
        engine(faulty("hang"), b"garbage", threads=1),
    ):
        pass
    assert caught.value.rung == "build"


def test_a_file_of_ones_own_is_a_runtime(tmp_path: Path) -> None:
    """Its name is its path, so that other processes find it; what is wrong with the file is said."""
    assert faulty("nan").name == f"{FAULTY}:nan"
    with pytest.raises(UsageError, match="must have the variant 'worse'"):
        load(f"{FAULTY}:worse")
    with pytest.raises(UsageError, match="is no file"):
        load(str(tmp_path / "missing.py"))
    (tmp_path / "hollow.py").write_text("")
    with pytest.raises(UsageError, match="must define VARIANTS"):
        load(str(tmp_path / "hollow.py"))
