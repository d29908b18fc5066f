"""Layouts of the same quantized network that one runtime or another runs fast."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from autocompress.compressors.modules import TRANSPOSED
from autocompress.compressors.onnx_files.onnxruntime_layout import WEIGHTED, integer_outputs, unsigned_activations
from autocompress.evaluators import runtimes
from autocompress.evaluators.runtime import Source
from autocompress.spaces.capabilities import SYMMETRIC, Integers

from ..quantized import (
    CHAIN,
    FINE,
    FLAVOUR,
    MERGED,
    NETWORKS,
    SHARED,
    Case,
    case,
    constants,
    in_torch,
    mixed_bits,
    network,
    rounded,
    served,
    share,
)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"decoder"}))
def test_what_runtimes_round_is_what_pytorch_rounds(name: str) -> None:
    """Where any zero point is taken, a file keeps its integers; only a transposed convolution's input may change."""
    it = case(name, integers=FINE)
    before, after = constants(it.file), constants(onnx.load_from_string(unsigned_activations(it.canonical)))
    for node in it.file.graph.node:
        for stored in node.input if node.op_type in {"QuantizeLinear", "DequantizeLinear"} else ():
            if stored in before:
                np.testing.assert_array_equal(after[stored], before[stored])


@pytest.mark.parametrize("leave", [None, 0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_unsigned_layout_has_only_uint8_activations(name: str, leave: int | None) -> None:
    """Activations are UINT8 with zero point 0 or 128, weights stay INT8, biases of quantized layers are INT32."""
    it = case(name, leave)
    file = onnx.load_from_string(unsigned_activations(it.canonical))
    stored = constants(file)
    quantizers = [node for node in file.graph.node if node.op_type == "QuantizeLinear"]
    assert quantizers
    for node in quantizers:
        assert stored[node.input[2]].dtype == np.uint8
        assert int(stored[node.input[2]]) in {0, 128}
    made = {node.output[0] for node in quantizers}
    for node in file.graph.node:
        if node.op_type == "DequantizeLinear":
            zero = stored[node.input[2]]
            assert zero.dtype == (np.uint8 if node.input[0] in made else stored[node.input[0]].dtype)
            assert node.input[0] in made or stored[node.input[0]].dtype in (np.int8, np.int32)
    assert not [source for source in file.graph.input if source.type.tensor_type.elem_type != TensorProto.FLOAT]


@pytest.mark.parametrize("name", NETWORKS)
def test_pairs_of_products_fit_into_sixteen_bits(name: str) -> None:
    """255 times a pair of input channels' weights is below 2^15; small weights stay, and depthwise ones."""
    it = case(name)
    before, after = constants(it.file), constants(onnx.load_from_string(unsigned_activations(it.canonical)))
    for node in it.file.graph.node:
        if node.op_type != "DequantizeLinear" or before.get(node.input[0], np.array(0)).ndim < 2:
            continue
        axis = node.attribute[0].i
        rows = np.moveaxis(np.moveaxis(after[node.input[0]].astype(int), axis, 0), 1, -1)
        grown = after[node.input[1]] / before[node.input[1]]
        if rows.ndim == 4 and rows.shape[-1] == 1 and name == "depthwise":
            assert (grown == 1).all()
            continue
        even = rows.shape[-1] % 2 == 0
        rows = rows.reshape(len(rows), -1)
        for signed in (rows.clip(0), (-rows).clip(0)):
            sums = (signed[:, 1:] + signed[:, :-1])[:, :: 2 if even else 1]
            assert (255 * sums).max(initial=0) < 2**15
        assert (grown >= 1).all()
        assert (grown <= 2).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_unsigned_layout_computes_the_same(name: str) -> None:
    """The rewrite keeps the ranges, so that the outputs stay: as the files are written, and in the fused kernels."""
    it = case(name)
    unsigned = unsigned_activations(it.canonical)
    written = served(it.canonical, it.images, fused=False)
    assert share(served(unsigned, it.images, fused=False), written) < FLAVOUR
    if name not in SHARED:
        assert share(served(unsigned, it.images), served(it.canonical, it.images)) < FLAVOUR


@pytest.mark.parametrize("name", NETWORKS)
def test_unsigned_layout_clips_where_the_canonical_one_does(name: str) -> None:
    """Numbers beyond the calibrated ranges, which training may bring, end at the same bounds in both layouts."""
    it = case(name)
    images = 3 * it.images
    unsigned = served(unsigned_activations(it.canonical), images, fused=False)
    assert share(unsigned, served(it.canonical, images, fused=False)) < FLAVOUR


def test_zero_point_is_least_after_a_relu() -> None:
    """What cannot be negative uses the whole range of UINT8 above its zero point; the input of the network cannot."""
    file = onnx.load_from_string(unsigned_activations(case("chain").canonical))
    stored, makers = constants(file), {name: node.op_type for node in file.graph.node for name in node.output}
    zeros = {
        makers.get(n.input[0], "input"): int(stored[n.input[2]])
        for n in file.graph.node
        if n.op_type == "QuantizeLinear"
    }
    assert zeros == {"input": 128, "Relu": 0, "Flatten": 0}


def mixed(name: str, leave: int | None, integers: Integers = SYMMETRIC) -> tuple[Case, bytes, bytes]:
    """Return a network, and its file before and after all that its convolutions make is in integers."""
    it = case(name, leave, integers=integers)
    unsigned = unsigned_activations(it.canonical)
    return it, unsigned, integer_outputs(unsigned, [[it.images.numpy()]])


@pytest.mark.parametrize("leave", [None, 0, 1, 2])
@pytest.mark.parametrize("integers", [SYMMETRIC, FINE])
@pytest.mark.parametrize("name", sorted(set(NETWORKS) - SHARED))
def test_what_is_meant_for_integers_runs_in_integers(name: str, integers: Integers, leave: int | None) -> None:
    """ONNX Runtime executes just the quantized layers in INT8, whatever their neighbours are, with close outputs.

    But for transposed convolutions, for which it has no kernel.
    """
    it, unsigned, file = mixed(name, leave, integers)
    kernels = runtimes.load("onnxruntime").kernels(file, [it.images[:1].numpy()])
    layers = [node for node in it.float_file.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    left = [name for name in it.float_layers if not isinstance(it.model.get_submodule(name), TRANSPOSED)]
    assert sum(kernel.macs > 0 and kernel.bits == 8 for kernel in kernels) == len(layers) - len(left)
    assert share(served(file, it.images), served(unsigned, it.images)) < FLAVOUR


@pytest.mark.parametrize("leave", [0, 1, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_float_layers_read_one_scale_a_channel(name: str, leave: int) -> None:
    """ONNX Runtime would round the weights of a float layer whose input has a single scale."""
    _, _, file = mixed(name, leave)
    proto = onnx.load_from_string(file)
    stored = constants(proto)
    dequantizers = {n.output[0]: n for n in proto.graph.node if n.op_type == "DequantizeLinear"}
    for node in proto.graph.node:
        if node.op_type in WEIGHTED and node.input[1] in stored and node.input[0] in dequantizers:
            scales = stored[dequantizers[node.input[0]].input[1]]
            assert scales.ndim == 1
            assert len(set(scales.tolist())) == 1


def test_what_has_no_weights_reads_a_single_scale() -> None:
    """An activation function in float needs no scale for each channel, and the layers about it stay what they are."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 5, 3), nn.Flatten(), nn.LazyLinear(5))
    model(torch.zeros(1, 3, 8, 8))
    it = rounded(model, {"0": 8})
    unsigned = unsigned_activations(it.canonical)
    file = integer_outputs(unsigned, [[it.images.numpy()]])
    proto = onnx.load_from_string(file)
    stored = constants(proto)
    (again,) = (n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.output[0].endswith("_again"))
    assert stored[again.input[1]].ndim == 0
    kernels = runtimes.load("onnxruntime").kernels(file, [it.images[:1].numpy()])
    assert sorted(kernel.bits for kernel in kernels if kernel.macs) == [8, 32, 32]
    assert share(served(file, it.images), served(unsigned, it.images)) < FLAVOUR


def test_file_in_integers_alone_stays() -> None:
    """Where no layer in float reads what a convolution makes, nothing changes."""
    _, unsigned, file = mixed("chain", None)
    assert file == unsigned


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("name", ["chain", "mlp", "tokens", "residual"])
def test_weights_in_four_bits_run_beside_integers(name: str, runtime: str) -> None:
    """A runtime executes linear layers in INT4 and all others in INT8, and computes what PyTorch does.

    OpenVINO may compute a layer with an odd number of outputs in float, from the same weights.
    """
    server = runtimes.load(runtime)
    bits = mixed_bits(network(name), [4] * 5)
    it = rounded(network(name), bits)
    images = it.images.numpy()
    source = Source(
        onnx=it.canonical, module=it.model, quantized=frozenset(), examples=[images], calibration=[[images]]
    )
    file = server.convert(source)
    with server.build(file, threads=1) as engine:
        (outputs,) = engine.infer([images])
    assert share(outputs, in_torch(it)) < (MERGED if name == "residual" else 2 * CHAIN)
    kernels = [kernel for kernel in server.kernels(file, [images]) if kernel.macs]
    fours = [layer for layer, b in bits.items() if b == 4]
    odd = [layer for layer in fours if len(network(name).get_submodule(layer).weight) % 2]
    executed = sum(kernel.bits == 4 for kernel in kernels)
    assert len(fours) - (len(odd) if runtime == "openvino" else 0) <= executed <= len(fours)
    assert sum(kernel.bits == 8 for kernel in kernels) == sum(b == 8 for b in bits.values())


def test_without_calibration_unknown_ranges_stay_in_float() -> None:
    """A file alone tells no range of what a layer in float reads."""
    unsigned = unsigned_activations(case("chain", 1).canonical)
    assert integer_outputs(unsigned, []) == unsigned
    assert integer_outputs(unsigned, [[case("chain", 1).images.numpy()]]) != unsigned


def activated() -> nn.Module:
    """Return convolutions whose activations are hardly negative."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.SiLU(), nn.Conv2d(16, 16, 3), nn.Hardswish(), nn.Flatten(), nn.Linear(256, 5)
    )


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_is_hardly_negative_has_finer_steps(runtime: str) -> None:
    """With calibration data a runtime's file is nearer to the network in float than with steps to both sides alike."""
    it = rounded(activated(), {"0": 8, "2": 8, "5": 8}, calibration="max")
    images, server = it.images.numpy(), runtimes.load(runtime)
    expected = served(it.float_file.SerializeToString(), it.images)
    errors = []
    for calibration in ([], [[images]]):
        with server.build(server.convert(Source(onnx=it.canonical, calibration=calibration)), threads=1) as engine:
            errors.append(float(np.square(engine.infer([images])[0] - expected).mean()))
    assert errors[1] < 0.95 * errors[0]


def test_steps_reach_from_the_least_number_to_the_largest_kept() -> None:
    """Both ends and 0 are on the grid; ranges end above where the canonical file's do."""
    it = rounded(activated(), {"0": 8, "2": 8, "5": 8})
    file = onnx.load_from_string(unsigned_activations(it.canonical, [[it.images.numpy()]]))
    before, after = constants(it.file), constants(file)
    zeros = []
    for node in file.graph.node:
        if node.op_type != "QuantizeLinear":
            continue
        step, zero = float(after[node.input[1]]), int(after[node.input[2]])
        reach = 127 * float(before[node.input[1]])
        assert reach * (1 - 1e-6) <= (255 - zero) * step < reach * 1.02
        zeros.append(zero)
    assert 0 < min(zeros) < 64


def test_moved_numbers_keep_their_grid() -> None:
    """A maximum of neighbours begins higher than they do, and has their steps all the same: it is taken of integers."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.MaxPool2d(3), nn.Conv2d(16, 8, 1), nn.Flatten(), nn.Linear(32, 5))
    it = rounded(model, {"0": 8, "2": 8, "4": 8})
    file = onnx.load_from_string(unsigned_activations(it.canonical, [[it.images.numpy()]]))
    stored, makers = constants(file), {name: node for node in file.graph.node for name in node.output}
    (pool,) = (node for node in file.graph.node if node.op_type == "MaxPool")
    before, (after,) = makers[pool.input[0]], (n for n in file.graph.node if pool.output[0] in n.input)
    assert (before.op_type, after.op_type) == ("DequantizeLinear", "QuantizeLinear")
    assert [stored[name] for name in before.input[1:]] == [stored[name] for name in after.input[1:]]


def test_branches_that_are_not_negative_stay_so_side_by_side() -> None:
    """A concatenation of what left a ReLU has zero point 0, whatever calibration data there is."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
            self.merge, self.head = nn.Conv2d(8, 6, 3), nn.Linear(6 * 36, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            both = torch.cat((self.left(x).relu(), self.right(x).relu()), 1)
            logits: torch.Tensor = self.head(self.merge(both).relu().flatten(1))
            return logits

    it = rounded(Branches(), dict.fromkeys(("left", "right", "merge", "head"), 8))
    file = onnx.load_from_string(unsigned_activations(it.canonical))
    makers = {name: node.op_type for node in file.graph.node for name in node.output}
    quantizers = [node for node in file.graph.node if node.op_type == "QuantizeLinear"]
    zeros = {makers.get(node.input[0], "input"): int(constants(file)[node.input[2]]) for node in quantizers}
    assert zeros["Concat"] == 0
    assert share(served(unsigned_activations(it.canonical), it.images), in_torch(it)) < MERGED
