"""Every family of networks that we export, in every precision, is taken by NVIDIA's own builder.

TensorRT for RTX builds for named GPUs on a machine without one. That proves acceptance, not speed.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from autocompress.compressors.onnx_files.number_formats import is_two_four
from autocompress.evaluators.tensorrt.build import BuildOptions, build

from .graphs import ALL, FAMILIES, PRECISIONS, SMALL, Attempt, attempt, exported, graph

NEEDS = "needs NVIDIA's builder: pip install 'tensorrt-rtx-cu13==1.7.*'"

trt: Any = pytest.importorskip("tensorrt_rtx", reason=NEEDS)

EVERYWHERE = ("fp16", "int8+fp16")
"""Precisions in which every family is built; `bench/tensorrt_graphs.py` builds all in all."""

SOME = ("residual", "mlp", "mobilenet", "encoder")
"""Families that are built in every precision."""

GRAPHS = [(f, p) for f, p in ALL if p in EVERYWHERE or f in SOME]

STORED = {
    "fp32": "float32",
    "fp16": "float16",
    "int8": "int8",
    "fp8": "float8_e4m3fn",
    "int4": "int4",
    "2:4": "float16",
}
"""The type that most weights have in a file."""


@cache
def tried(family: str, precision: str) -> Attempt:
    """Return what became of a graph, built once for the first GPUs that take all precisions."""
    return attempt(trt, family, precision, "SM89")


@pytest.mark.parametrize(("family", "precision"), GRAPHS)
def test_graph_is_accepted(family: str, precision: str) -> None:
    """The builder makes an engine, for batches of 1 to 8, and reports no error."""
    it = tried(family, precision)
    assert it.refused == ""
    assert it.plan_bytes > 1000
    assert not [line for line in it.log if "ERROR" in line]


@pytest.mark.parametrize(("family", "precision"), GRAPHS)
def test_graph_has_the_precision_of_its_name(family: str, precision: str) -> None:
    """Weights are stored in the type that is claimed, and only there."""
    weights = [numpy_helper.to_array(i) for i in onnx.load_from_string(graph(family, precision)).graph.initializer]
    weights = [weight for weight in weights if weight.ndim >= 2 and weight.size >= 64]
    types = Counter(str(weight.dtype) for weight in weights)
    first, _, second = precision.partition("+")
    if first == "2:4":
        sparse = [is_two_four(weight, axis) for weight in weights for axis in (0, 1)]
        assert any(sparse)
        first, second = second, ""
    assert types[STORED[first]] > 0
    if first in ("int8", "fp8"):
        assert types[STORED[first]] >= len([t for t in types.elements() if t != STORED[first]])
    assert (types["float32"] > 0) <= (second != "fp16" and first != "fp16")


def test_all_families_and_precisions_are_here() -> None:
    """No family and no precision of the table is left out."""
    assert {family for family, _ in GRAPHS} == set(FAMILIES)
    assert {precision for _, precision in GRAPHS} == set(PRECISIONS)
    assert len(GRAPHS) >= 50


@pytest.mark.parametrize("family", SMALL)
def test_linear_layers_too_small_for_int4_stay(family: str) -> None:
    """Where no block fits, the file in INT4 has no INT4, which is why these graphs are not in the table."""
    types = {numpy_helper.to_array(i).dtype for i in onnx.load_from_string(graph(family, "int4")).graph.initializer}
    assert np.dtype(ml_dtypes.int4) not in types


@pytest.mark.parametrize("capability", ["SM75", "SM80", "SM86", "SM120", "SM121"])
def test_int8_is_accepted_on_every_gpu(capability: str) -> None:
    """Turing to Blackwell take INT8 with FP16 between."""
    for family in ("residual", "mlp"):
        assert attempt(trt, family, "int8+fp16", capability).refused == ""


@pytest.mark.parametrize("precision", ["fp8+fp16", "int4+fp16", "2:4+int8"])
def test_blackwell_takes_what_ada_does(precision: str) -> None:
    """FP8, INT4 weights and sparse weights are not only for one GPU."""
    assert attempt(trt, "mlp", precision, "SM120").refused == ""


def test_one_plan_serves_several_gpus() -> None:
    """What all of some GPUs have is taken for them together; what one of them lacks is not."""
    assert attempt(trt, "mlp", "int8+fp16", "SM86", "SM89").refused == ""
    assert "sm86" in attempt(trt, "mlp", "fp8+fp16", "SM86", "SM89").refused


def test_narrow_weights_arrive_in_the_plan() -> None:
    """A network of 11 million weights has a plan of half the size in FP16, and of less than a third in INT8 and FP8."""
    full = len(exported("resnet18"))
    assert 0.9 * full < tried("resnet18", "fp32").plan_bytes
    assert tried("resnet18", "fp16").plan_bytes < 0.6 * full
    assert tried("resnet18", "int8+fp16").plan_bytes < 0.35 * full
    assert tried("resnet18", "fp8+fp16").plan_bytes < 0.35 * full


def test_a_fixed_batch_needs_no_profile() -> None:
    """A file whose shapes are all given is built without shapes."""
    proto = onnx.load_from_string(graph("residual", "int8+fp16"))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    assert build(trt, proto.SerializeToString(), options=BuildOptions(capabilities=("SM89",))).plan
