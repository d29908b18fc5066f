"""Quantization in the ONNX file: what it computes, and what the canonical layout promises."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autocompress.compressors import qdq
from autocompress.compressors.flavours import unsigned_activations
from autocompress.compressors.quantize import strip

from .quantized import (
    CHAIN,
    FLAVOUR,
    MERGED,
    NETWORKS,
    SHARED,
    TIGHT,
    Stream,
    case,
    constants,
    in_torch,
    quantized,
    served,
    share,
)


@pytest.mark.parametrize("name", NETWORKS)
def test_file_computes_what_pytorch_simulates(name: str) -> None:
    """The canonical file's outputs are close to PyTorch's, and differ from those of the float network."""
    it = case(name)
    tolerance = CHAIN if name in TIGHT else MERGED
    expected = in_torch(it)
    assert share(served(it.canonical, it.images, fused=name not in SHARED), expected) < tolerance
    assert share(served(it.float_file.SerializeToString(), it.images), expected) > 0


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
    layers = [m for m in strip(it.model)[0].modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
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
            if isinstance(layer, (nn.Conv2d, nn.Linear))
            and any(
                value.shape == weight.shape and np.abs(value - weight).max() <= scale.max() * 0.51
                for weight in (layer.weight.detach().numpy(), layer.weight.detach().numpy().T)
            )
        ]
        assert len(same) == 1
        assert scale.shape == (same[0].weight.shape[0],)
        found += 1
    assert found == sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in plain.modules())


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
    wanted = {"Conv", "Gemm", "MatMul", "Concat", *qdq.POOLS}
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
