"""Quantization in the ONNX file: what it computes, and what the canonical layout promises."""

from __future__ import annotations

import copy

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.compressors.modules import LAYERS, out_channels
from autocompress.compressors.onnx_files import qdq
from autocompress.compressors.onnx_files.onnxruntime_layout import unsigned_activations
from autocompress.compressors.quantization.calibration import METHODS
from autocompress.compressors.quantization.quantize import strip
from autocompress.spaces.capabilities import SYMMETRIC, Integers

from ..quantized import (
    CHAIN,
    FINE,
    FLAVOUR,
    MERGED,
    NETWORKS,
    SHARED,
    TIGHT,
    Stream,
    a_few_steps,
    case,
    constants,
    in_torch,
    mixed_bits,
    network,
    quantized,
    rounded,
    served,
    share,
)


@pytest.mark.parametrize("integers", [SYMMETRIC, FINE])
@pytest.mark.parametrize("name", NETWORKS)
def test_file_computes_what_pytorch_simulates(name: str, integers: Integers) -> None:
    """The canonical file's outputs are close to PyTorch's, and differ from those of the float network."""
    it = case(name, integers=integers)
    tolerance = CHAIN if name in TIGHT else MERGED
    expected = in_torch(it)
    assert share(served(it.canonical, it.images, fused=name not in SHARED), expected) < tolerance
    assert share(served(it.float_file.SerializeToString(), it.images), expected) > 0


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(sorted(TIGHT)),
    st.sampled_from(sorted(METHODS)),
    st.sampled_from([SYMMETRIC, FINE]),
    st.booleans(),
    st.lists(st.sampled_from([4, 8, 32]), min_size=5, max_size=5),
    st.integers(0, 9),
)
def test_rounding_in_pytorch_is_the_files(
    name: str, method: str, integers: Integers, learned: bool, chosen: list[int], seed: int
) -> None:
    """However ranges are found, trained or not, both round alike: only what lies halfway between levels may differ."""
    bits = mixed_bits(network(name, seed), chosen)
    if not bits:
        return
    scales = "learned" if learned else "fixed"
    train = a_few_steps if learned else None
    it = rounded(network(name, seed), bits, train, integers=integers, calibration=method, scales=scales)
    onnx.checker.check_model(it.file, full_check=True)
    expected = in_torch(it)
    differences = np.abs(served(it.canonical, it.images, fused=False) - expected).max(1)
    reach = float((expected.max(0) - expected.min(0)).max())
    assert np.median(differences) < 1e-5 * reach
    assert differences.max() < MERGED * reach


@pytest.mark.parametrize("name", ["chain", "mlp", "tokens", "residual", "concat"])
def test_weights_in_four_bits_are_stored_in_blocks(name: str) -> None:
    """They lie as (inputs, outputs) in INT4 with a scale for each block of inputs, and read what is not rounded."""
    model = network(name)
    bits = {n: b for n, b in mixed_bits(model, [4] * 5).items() if b == 4}
    it = rounded(model, bits)
    stored, layers = constants(it.file), dict(strip(it.model)[0].named_modules())
    assert [opset.version for opset in it.file.opset_import] == [21]
    restored = [node for node in it.file.graph.node if node.op_type == "DequantizeLinear"]
    assert len(restored) == len(bits)
    for node in restored:
        integers, scale = stored[node.input[0]], stored[node.input[1]]
        given = {a.name: a.i for a in node.attribute}
        assert integers.dtype == ml_dtypes.int4
        assert given["axis"] == 0
        assert scale.shape == (integers.shape[0] // given["block_size"], integers.shape[1])
        weight = integers.astype(np.float32) * np.repeat(scale, given["block_size"], 0)
        near = [n for n in bits if layers[n].weight.shape == weight.T.shape]
        assert any(np.abs(layers[n].weight.detach().numpy().T - weight).max() <= 0.51 * scale.max() for n in near)
    assert not [node for node in it.file.graph.node if node.op_type == "QuantizeLinear"]


def test_learned_scales_are_those_in_the_file() -> None:
    """What training made of the scales is what runs, not what the weights' largest values would give."""
    it = rounded(network("mlp"), {"1": 8, "3": 8}, a_few_steps, scales="learned")
    _, scales = strip(it.model)
    stored = [value for value in constants(it.file).values() if value.dtype == np.float32]
    for scale in scales.values():
        assert scale.weight is not None
        assert any(np.array_equal(scale.weight, value) for value in stored)
        assert any(value.ndim == 0 and value == np.float32(scale.input.step) for value in stored)


def test_ranges_between_layers_are_found_by_the_method_chosen() -> None:
    """An addition's operand is clipped as layers' inputs are."""
    bits = dict.fromkeys(("stem", "a", "b", "head"), 8)
    files = [rounded(network("residual"), bits, calibration=method).file for method in ("max", "percentile_99.9")]
    steps = [
        {n.input[0]: float(constants(file)[n.input[1]]) for n in file.graph.node if n.op_type == "QuantizeLinear"}
        for file in files
    ]
    assert steps[0].keys() == steps[1].keys()
    assert all(steps[1][name] <= steps[0][name] for name in steps[0])
    merged = {name for n in files[0].graph.node if n.op_type == "Add" for name in n.input}
    between = [name for name in steps[0] if f"{name}_dequantized" in merged]
    assert len(between) == 2
    assert all(steps[1][name] < steps[0][name] for name in between)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(NETWORKS)), st.integers(0, 3), st.integers(0, 9))
def test_mixed_networks_agree_too(name: str, leave: int, seed: int) -> None:
    """Where one layer stays in float, the file still computes what PyTorch does, in both layouts."""
    it = case(name, leave, seed)
    tolerance = CHAIN if name in TIGHT else MERGED
    canonical = served(it.canonical, it.images, fused=name not in SHARED)
    assert share(canonical, in_torch(it)) < tolerance
    unsigned = unsigned_activations(it.canonical)
    assert share(served(unsigned, it.images, fused=name not in SHARED), canonical) < FLAVOUR


@pytest.mark.parametrize("leave", [None, 0, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_canonical_file_is_signed_and_symmetric(name: str, leave: int | None) -> None:
    """All zero points are 0 in INT8, weights are stored as INT8, and biases stay in float."""
    it = case(name, leave)
    onnx.checker.check_model(it.file, full_check=True)
    stored = constants(it.file)
    pairs = [node for node in it.file.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert pairs
    for node in pairs:
        zero = stored[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    assert not [name for name, value in stored.items() if value.dtype == np.int32]
    weights = [stored[node.input[0]] for node in pairs if node.input[0] in stored]
    layers = [m for m in strip(it.model)[0].modules() if isinstance(m, LAYERS)]
    assert len(weights) == len(layers) - len(it.float_layers)
    assert {weight.dtype for weight in weights} == {np.dtype(np.int8)}
    assert all(weight.min() >= -127 and np.abs(weight).max() == 127 for weight in weights)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_have_one_scale_for_each_output_channel(name: str) -> None:
    """The integers times their scales are the weights that PyTorch rounds to."""
    it = case(name)
    stored = constants(it.file)
    plain, _ = strip(it.model)
    found = 0
    for node in it.file.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in stored:
            continue
        integers, scale = stored[node.input[0]], stored[node.input[1]]
        axis = node.attribute[0].i
        shape = [-1 if i == axis else 1 for i in range(integers.ndim)]
        value = integers * scale.reshape(shape)
        same = [
            layer
            for layer in plain.modules()
            if isinstance(layer, LAYERS)
            and any(
                value.shape == weight.shape and np.abs(value - weight).max() <= scale.max() * 0.51
                for weight in (layer.weight.detach().numpy(), layer.weight.detach().numpy().T)
            )
        ]
        assert len(same) == 1
        assert scale.shape == (out_channels(same[0]),)
        found += 1
    assert found == sum(isinstance(module, LAYERS) for module in plain.modules())


@pytest.mark.parametrize("leave", [0, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_float_layers_read_float_tensors(name: str, leave: int) -> None:
    """A layer left in float reads nothing that was rounded, neither as input nor as weight."""
    it = case(name, leave)
    (layer,) = it.float_layers
    plain, _ = strip(it.model)
    weights = {weight for weight, owner in qdq.layers_of(it.float_file, plain).items() if owner == layer}
    rounded = {node.output[0] for node in it.file.graph.node if node.op_type == "DequantizeLinear"}
    readers = [node for node in it.file.graph.node if weights.intersection(node.input)]
    assert readers
    for node in readers:
        assert not rounded.intersection(node.input)


@pytest.mark.parametrize("name", NETWORKS)
def test_quantized_layers_read_rounded_tensors(name: str) -> None:
    """Where all layers are quantized, each of them, and each addition of tensors and pool, reads only Q/DQ pairs."""
    it = case(name)
    rounded = {node.output[0] for node in it.file.graph.node if node.op_type == "DequantizeLinear"}
    stored = constants(it.file)
    wanted = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Concat", *qdq.POOLS}
    nodes = [n for n in it.file.graph.node if n.op_type in wanted]
    nodes += [n for n in it.file.graph.node if n.op_type == "Add" and not stored.keys() & set(n.input)]
    assert nodes
    for node in nodes:
        read = node.input[:1] if node.op_type in qdq.POOLS else [n for n in node.input if n not in stored]
        assert set(read) <= rounded


def test_bias_of_a_product_is_no_merge() -> None:
    """A linear layer on sequences is not torn apart by a rounding between its product and its bias."""
    nodes = case("tokens").file.graph.node
    products = {node.output[0] for node in nodes if node.op_type == "MatMul"}
    assert len(products) == 2
    assert products == {name for node in nodes if node.op_type == "Add" for name in node.input if name in products}


def test_no_scales_leave_the_graph_as_it_is() -> None:
    """A network without quantized layers is copied, byte for byte."""
    it = case("chain")
    plain, _ = strip(it.model)
    file = qdq.insert(it.float_file, plain, {}, [])
    assert file.SerializeToString() == it.float_file.SerializeToString()
    assert file is not it.float_file


def test_inserting_leaves_the_float_graph_as_it_was() -> None:
    """The given graph can be used again."""
    it = case("chain")
    plain, scales = strip(it.model)
    before = it.float_file.SerializeToString()
    qdq.insert(it.float_file, plain, scales, [(it.images,)])
    assert it.float_file.SerializeToString() == before


def test_residual_stream_of_linear_layers_stays_in_float() -> None:
    """What is added between linear layers is not rounded, so that the file computes what PyTorch simulates."""
    torch.manual_seed(0)
    it = quantized(Stream(), {"embed", "branches.0.1", "branches.1.1", "head"})
    rounded = {node.output[0] for node in it.file.graph.node if node.op_type == "DequantizeLinear"}
    additions = [node for node in it.file.graph.node if node.op_type == "Add"]
    assert len(additions) == 5
    assert not [node.name for node in additions if rounded.intersection(node.input)]
    assert share(served(it.canonical, it.images), in_torch(it)) < CHAIN


def test_equal_layers_are_told_apart() -> None:
    """Of two linear layers with the same weights, of which the exporter keeps one, only the meant one is in INT8."""
    torch.manual_seed(0)
    model = Stream()
    model.branches[1] = copy.deepcopy(model.branches[0])
    for name in ("branches.0.1", "branches.1.1"):
        it = quantized(model, {name})
        rounded = {node.output[0] for node in it.file.graph.node if node.op_type == "DequantizeLinear"}
        products = [node.name for node in it.file.graph.node if rounded.intersection(node.input)]
        assert len(products) == 1
        assert f"branches.{name[9]}/" in products[0]
        assert share(served(it.canonical, it.images), in_torch(it)) < CHAIN


@pytest.mark.parametrize(("name", "moves"), [("max pool", {"MaxPool", "Flatten"}), ("depthwise", {"Flatten"})])
def test_what_moves_numbers_moves_integers(name: str, moves: set[str]) -> None:
    """Before and after a maximum or another shape numbers have one scale, without which runtimes take them in float."""
    file = case(name).file
    makers = {name: node for node in file.graph.node for name in node.output}
    scales = {node.input[0]: node.input[1] for node in file.graph.node if node.op_type == "QuantizeLinear"}
    found = [node for node in file.graph.node if node.op_type in qdq.MOVES]
    assert {node.op_type for node in found} == moves
    for node in found:
        before = constants(file)[makers[node.input[0]].input[1]]
        assert before == constants(file)[scales[node.output[0]]]
