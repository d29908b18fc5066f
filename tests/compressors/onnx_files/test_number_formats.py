"""Number formats in the ONNX file: what they compute, and what is stored."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from autocompress.compressors.onnx_files.number_formats import (
    FLOAT8_MAX,
    float8,
    half,
    int4_weights,
    is_two_four,
    sparsened,
    two_four,
)
from autocompress.compressors.quantization.int4 import block_of, quantize_blocks
from autocompress.errors import InfeasibleError

from ..formats import NETWORKS, constants, difference, file, product, served, types

HALF = 2.0**-11
"""The relative error of rounding to FP16."""

LAYERS = 4
"""Layers one after another in the networks below, each of which rounds its output."""


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_half_computes_the_same(name: str, bits: int) -> None:
    """In float each layer adds a rounding; between Q/DQ pairs one of the 254 steps may be taken to its neighbour."""
    step = 1 / 127 if bits == 8 else 0
    share = difference(name, half(file(name, bits)), file(name, bits))
    assert 0 < share < LAYERS * (4 * HALF + step)


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_half_leaves_no_float32_inside(name: str, bits: int) -> None:
    """Float32 is in the inputs and outputs alone, which are cast; integers stay what they were."""
    content = half(file(name, bits))
    proto = onnx.load_from_string(content)
    assert TensorProto.FLOAT not in types(content).values()
    assert TensorProto.FLOAT16 in types(content).values()
    assert {i.type.tensor_type.elem_type for i in (*proto.graph.input, *proto.graph.output)} == {TensorProto.FLOAT}
    resized = {i for n in proto.graph.node if n.op_type == "Resize" for i in n.input}  # ONNX has its factors in float32
    assert {n for n, value in constants(content).items() if value.dtype == np.float32} <= resized
    before = {n: value for n, value in constants(file(name, bits)).items() if value.dtype == np.int8}
    for constant, value in before.items():
        np.testing.assert_array_equal(constants(content)[constant], value)


@settings(deadline=None, max_examples=25)
@given(st.floats(-26, 2), st.integers(0, 99))
def test_half_keeps_weights_whose_scales_are_tiny(exponent: float, seed: int) -> None:
    """Where FP16 has few digits left for a scale, weights are rounded again: the error is half a step of that scale."""
    weight = np.random.default_rng(seed).uniform(-1, 1, (32, 4)).astype(np.float32) * np.float32(2**exponent)
    canonical = product(weight, 8)
    before, after = constants(canonical), constants(half(canonical))
    scale = after["scales"].astype(np.float64)
    assert (scale > 0).all()
    was = before["integers"] * before["scales"].astype(np.float64)
    assert (np.abs(after["integers"] * scale - was) <= 0.5001 * scale + 127 * HALF**2 * scale).all()
    assert (scale >= before["scales"]).all()


def test_half_never_clips_more() -> None:
    """The scale of a rounded tensor is rounded up."""
    for scale in np.float32([0.1, 1e-3, 3e-6, 1e-12]):
        after = float(constants(half(product(np.eye(4, dtype=np.float32), 8, float(scale))))["step"])
        assert scale <= after <= scale * (1 + 2 * HALF) + 2.0**-24


@pytest.mark.parametrize("value", [7e4, -1e30])
def test_half_refuses_constants_beyond_its_range(value: float) -> None:
    """The reason has the constant's name and its size."""
    with pytest.raises(InfeasibleError, match=r"up to 65504; the constant 'weight' has \d.*\.$"):
        half(product(np.full((4, 4), value, np.float32)))


def test_half_refuses_ranges_beyond_its_own() -> None:
    """A rounded tensor or weight that is known to reach more than FP16 holds is named."""
    with pytest.raises(InfeasibleError, match="the tensor 'x' reaches 127000"):
        half(product(np.eye(4, dtype=np.float32), 8, 1000.0))
    with pytest.raises(InfeasibleError, match=r"the tensor 'integers' reaches 1e\+20"):
        half(product(np.float32(1e20) * np.eye(4, dtype=np.float32), 8))
    with pytest.raises(InfeasibleError, match="the tensor 'weight_quantized' reaches 70000"):
        half(int4_weights(product(np.full((64, 4), 7e4, np.float32))))


def test_half_keeps_what_stands_for_infinity() -> None:
    """Masks of attention are float32's lowest number or minus infinity; they become FP16's."""
    lowest = np.float32([[np.finfo(np.float32).min, -np.inf], [np.finfo(np.float32).max, 1]])
    value = constants(half(product(lowest)))["weight"]
    np.testing.assert_array_equal(value, np.float16([[-65504, -np.inf], [65504, 1]]))


@pytest.mark.parametrize("name", NETWORKS)
def test_float8_rounds_to_its_own_steps(name: str) -> None:
    """All pairs are E4M3 over the ranges of the integers, and weights are within half a step of three binary digits."""
    before, after = constants(file(name, 8)), constants(float8(file(name, 8)))
    proto = onnx.load_from_string(float8(file(name, 8)))
    pairs = [n for n in proto.graph.node if n.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert pairs
    assert float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max) == FLOAT8_MAX
    for node in pairs:
        assert after[node.input[2]].dtype == ml_dtypes.float8_e4m3fn
        np.testing.assert_allclose(after[node.input[1]] * 448, before[node.input[1]] * 127, rtol=1e-6)
        if node.input[0] in after:
            value = after[node.input[0]].astype(np.float32) * (127 / 448)
            was = before[node.input[0]].astype(np.float32)
            assert (np.abs(value - was) <= np.abs(was) * 2.0**-4 + 2.0**-10).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_float8_networks_compute_the_same(name: str) -> None:
    """On the whole a network's outputs move by less than the rounding of one product of two numbers."""
    for content in (float8(file(name, 8)), half(float8(file(name, 8)))):
        assert 2.0**-10 < difference(name, content, file(name)) < 2 * 2.0**-4


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 99))
def test_float8_computes_the_same(seed: int) -> None:
    """A product in FP8 is within the rounding of both factors, by ONNX's own definition of the operators."""
    rng = np.random.default_rng(seed)
    weight, x = rng.uniform(-1, 1, (32, 4)).astype(np.float32), rng.uniform(-1, 1, (8, 32)).astype(np.float32)
    canonical = product(weight, 8, 1 / 127)
    expected = served(canonical, x)
    (actual,) = ReferenceEvaluator(onnx.load_from_string(float8(canonical))).run(None, {"x": x})
    bound = np.abs(x) @ np.abs(weight) * (2 * 2.0**-4 + 2.0**-8) + 32 * 2 / 127
    assert (np.abs(actual - expected) <= bound).all()
    assert np.abs(actual - expected).max() > 0


@pytest.mark.parametrize("name", ["linear", "attention"])
def test_int4_computes_what_its_weights_say(name: str) -> None:
    """The outputs are those of the float file with the rounded weights in place of its own."""
    content = int4_weights(file(name))
    proto, stored = onnx.load_from_string(file(name)), constants(content)
    replaced = 0
    for constant in proto.graph.initializer:
        integers = stored.get(f"{constant.name}_quantized")
        if integers is not None:
            assert integers.dtype == ml_dtypes.int4
            scale = stored[f"{constant.name}_scale"]
            axis = int(np.argmax(np.array(integers.shape) != np.array(scale.shape)))
            block = integers.shape[axis] // scale.shape[axis]
            value = integers.astype(np.float32) * np.repeat(scale, block, axis)
            constant.CopyFrom(numpy_helper.from_array(value, constant.name))
            replaced += 1
    assert replaced == 2
    assert difference(name, content, proto.SerializeToString()) < 1e-6
    assert difference(name, content, file(name)) > 0.001


@pytest.mark.parametrize("name", ["linear", "attention"])
def test_int4_and_half_go_together(name: str) -> None:
    """Either way round, weights are INT4 with FP16 scales, and the outputs are those of the INT4 file."""
    for content in (half(int4_weights(file(name))), int4_weights(half(file(name)))):
        assert TensorProto.FLOAT not in types(content).values()
        assert [n for n, value in constants(content).items() if value.dtype == ml_dtypes.int4]
        assert difference(name, content, int4_weights(file(name))) < LAYERS * (4 * HALF + 1 / 14)


def test_int4_leaves_what_it_cannot_divide() -> None:
    """Convolutions, quantized layers and layers whose inputs no block divides stay as they are."""
    unchanged = int4_weights(product(np.ones((48, 4), np.float32)))
    assert {value.dtype for value in constants(unchanged).values()} == {np.dtype(np.float32)}
    for content in (file("convolutions"), file("linear", 8)):
        for name, value in constants(content).items():
            if value.ndim == 4 or value.dtype == np.int8:
                np.testing.assert_array_equal(constants(int4_weights(content))[name], value)


@settings(deadline=None)
@given(arrays(np.float32, (128, 3), elements=st.floats(-100, 100, width=32)), st.sampled_from([0, 1]))
def test_blocks_are_within_half_a_step(weight: NDArray[np.float32], axis: int) -> None:
    """Each block's largest number is reached, all others are within half of the block's scale."""
    weight = weight if axis == 0 else np.ascontiguousarray(weight.T)
    integers, scale = quantize_blocks(weight, axis, 64)
    assert scale.shape == tuple(2 if i == axis else n for i, n in enumerate(weight.shape))
    steps = np.repeat(scale, 64, axis)
    assert (np.abs(integers.astype(np.float32) * steps - weight) <= 0.5001 * steps).all()
    packed = numpy_helper.from_array(integers, "w")
    assert len(packed.raw_data) == weight.size // 2
    np.testing.assert_array_equal(numpy_helper.to_array(packed), integers)


@given(st.integers(1, 5000), st.sampled_from([64, 128]))
def test_block_divides(count: int, most: int) -> None:
    """A block is one of those that TensorRT takes, and the largest of them that divides."""
    block = block_of(count, most)
    fitting = [b for b in (64, 128) if b <= most and count % b == 0]
    assert block == max(fitting, default=0)


@settings(deadline=None)
@given(
    arrays(np.float32, st.tuples(*[st.sampled_from([4, 8])] * 2), elements=st.floats(-9, 9, width=32)),
    st.sampled_from([0, 1]),
)
def test_the_two_larger_of_four_are_kept(weight: NDArray[np.float32], axis: int) -> None:
    """No other choice of two of every four keeps more; doing it twice changes nothing; it is recognised."""
    sparse = sparsened(weight, axis)
    assert is_two_four(sparse, axis)
    kept = sparse != 0
    np.testing.assert_array_equal(sparse[kept], weight[kept])
    fours, left = (np.sort(np.abs(np.moveaxis(w, axis, -1).reshape(-1, 4)), 1) for w in (weight, sparse))
    np.testing.assert_array_equal(left[:, 2:], fours[:, 2:])
    np.testing.assert_array_equal(sparsened(sparse, axis), sparse)
    assert is_two_four(weight, axis) == bool((fours[:, 1] == 0).all())


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_two_four_is_along_what_is_summed_up(name: str, bits: int) -> None:
    """Each layer's weights are sparse along input channels, where there are enough; no others are touched."""
    before, after = constants(file(name, bits)), constants(two_four(file(name, bits)))
    proto = onnx.load_from_string(file(name, bits))
    stored = {n.output[0]: n.input[0] for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    changed = set()
    for node in proto.graph.node:
        weight = stored.get(node.input[1], node.input[1]) if len(node.input) > 1 else ""
        if node.op_type in {"Conv", "Gemm", "MatMul"} and weight in before:
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axis = 1 if node.op_type == "Conv" or transposed else 0
            assert is_two_four(after[weight], axis) == (before[weight].shape[axis] % 4 == 0)
            changed.add(weight)
    assert changed
    for constant in before.keys() - changed:
        np.testing.assert_array_equal(after[constant], before[constant])


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_of_a_gemm_may_lie_either_way(transposed: bool) -> None:
    """Blocks and fours lie along what is summed up, whichever axis that is."""
    weight = np.random.default_rng(0).uniform(-1, 1, (128, 64)).astype(np.float32)
    proto = onnx.load_from_string(product(weight))
    proto.graph.node[0].op_type = "Gemm"
    if transposed:
        proto.graph.node[0].attribute.append(helper.make_attribute("transB", 1))
        proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight.T), "weight"))
    content = proto.SerializeToString()
    assert is_two_four(constants(two_four(content))["weight"], int(transposed))
    assert constants(int4_weights(content))["weight_scale"].shape == ((64, 1) if transposed else (1, 64))
    x = np.random.default_rng(1).uniform(-1, 1, (8, 128)).astype(np.float32)
    assert np.abs(served(int4_weights(content), x) - x @ weight).max() <= (np.abs(x) @ np.full((128, 64), 1 / 14)).max()


@pytest.mark.parametrize("rewrite", [half, float8, int4_weights, two_four])
def test_the_given_names_and_shapes_stay(rewrite: Callable[[bytes], bytes]) -> None:
    """Inputs and outputs are those of the original."""
    for name in NETWORKS:
        before, after = (onnx.load_from_string(c).graph for c in (file(name, 8), rewrite(file(name, 8))))
        for one, other in zip((*before.input, *before.output), (*after.input, *after.output), strict=True):
            assert one.name == other.name
            assert one.type == other.type


@given(st.permutations([half, float8, int4_weights, two_four]))
@settings(deadline=None, max_examples=24)
def test_all_orders_go_together(order: list[Callable[[bytes], bytes]]) -> None:
    """On a file with a layer in INT8 and one in float, each rewrite leaves the others a file that they read."""
    content = file("linear", 8, leave="2")
    for rewrite in order:
        content = rewrite(content)
    stored = {value.dtype for value in constants(content).values() if value.ndim == 2}
    assert {np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.int4)} <= stored
    assert TensorProto.FLOAT not in types(content).values()


def test_halving_twice_changes_nothing_more() -> None:
    """A file in FP16 is taken as well, and computes the same."""
    for bits in (32, 8):
        once = half(file("attention", bits))
        assert difference("attention", half(once), once) == 0


def test_branches_are_refused() -> None:
    """What is inside of an If would stay in float32."""
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "branch",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["n", 4])],
    )
    proto = onnx.load_from_string(product(np.eye(4, dtype=np.float32)))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.insert(0, helper.make_node("If", ["yes"], ["w"], "choice", then_branch=branch, else_branch=branch))
    with pytest.raises(InfeasibleError, match="'choice'"):
        half(proto.SerializeToString())


def test_importing_it_is_light() -> None:
    """Processes that only measure load no torch."""
    code = "import sys, autocompress.compressors.onnx_files.number_formats; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
