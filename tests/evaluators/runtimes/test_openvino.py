"""What is special to OpenVINO: precisions, fused INT8, weights in 4 bits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autocompress.compressors.onnx_files import qdq
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.quantization.calibration import Grid
from autocompress.compressors.quantization.quantize import Scales
from autocompress.errors import InfeasibleError
from autocompress.evaluators.runtime import Source, low_precision
from autocompress.evaluators.runtimes.openvino import VARIANTS, OpenVino
from autocompress.evaluators.runtimes.openvino_int4 import four_bits, quantize_q4_0

from .conftest import Sample

Samples = Callable[[str], Sample]

FLOAT, BF16, INT4 = VARIANTS[""], VARIANTS["bf16"], VARIANTS["int4"]


def run(runtime: OpenVino, artefact: bytes, x: NDArray[np.float32]) -> NDArray[np.generic]:
    """Return the first output of a model."""
    with runtime.build(artefact, threads=1) as engine:
        return engine.infer([x])[0]


@pytest.fixture(scope="module")
def linear() -> tuple[bytes, NDArray[np.float32]]:
    """Return an ONNX file of linear layers, and inputs."""
    torch.manual_seed(0)
    x = torch.randn(4, 256)
    return to_onnx(
        nn.Sequential(nn.Linear(256, 200), nn.ReLU(), nn.Linear(200, 10)), (x,)
    ).SerializeToString(), x.numpy()


def test_importing_it_tells_nobody() -> None:
    """Its package would load its telemetry, which reports every import."""
    code = (
        "import sys; from autocompress.evaluators.runtimes import load; load('openvino').describe(); "
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_int8_layers_sums_and_means_run_in_8_bits(sample: Samples) -> None:
    """Residual additions and activations are part of the convolutions; nothing between the layers is in float."""
    it = sample("int8")
    kernels = FLOAT.kernels(FLOAT.convert(it.source), it.batches[0])
    assert {kernel.bits for kernel in kernels if kernel.kind in ("Convolution", "FullyConnected", "Reduce")} == {8}
    assert not [kernel for kernel in kernels if kernel.kind == "Eltwise"]


def test_kernels_are_named_by_the_nodes_that_read_the_weights(sample: Samples) -> None:
    """So that their times can be shared among the layers."""
    it = sample("float")
    nodes = onnx.load_from_string(it.source.onnx).graph.node
    layers = {name for node in nodes if node.op_type in ("Conv", "Gemm") for name in (node.name, *node.output)}
    heavy = [kernel.name for kernel in FLOAT.kernels(it.source.onnx, it.batches[0]) if kernel.macs]
    assert len(set(heavy)) == len([node for node in nodes if node.op_type in ("Conv", "Gemm")])
    assert set(heavy) <= layers


def test_large_sums_do_not_saturate() -> None:
    """Processors without VNNI add pairs of products in 16 bits; activations and weights at their ends still fit."""
    network = nn.Sequential(nn.Conv2d(16, 8, 3, bias=False), nn.ReLU())
    nn.init.ones_(network[0].weight)
    x = torch.ones(1, 16, 8, 8)
    graph = qdq.insert(to_onnx(network, (x,)), network, {"0": Scales(input=Grid(1 / 127))}, [(x,)])
    artefact = FLOAT.convert(Source(onnx=graph.SerializeToString()))
    assert low_precision(FLOAT.kernels(artefact, [x.numpy()])) == 1
    np.testing.assert_allclose(run(FLOAT, artefact, x.numpy()), 16 * 9, rtol=0.02)


def test_bf16_is_near_float_and_says_whether_it_was_executed(sample: Samples) -> None:
    """On a processor without bfloat16 it is float32, and the description does not hide that."""
    it = sample("float")
    (inputs, expected) = (it.batches[1], it.expected[1].numpy())
    output = run(BF16, it.source.onnx, inputs[0])
    difference = float(np.abs(output - run(FLOAT, it.source.onnx, inputs[0])).max())
    assert difference <= 0.03 * float(expected.max() - expected.min())
    executed = low_precision(BF16.kernels(it.source.onnx, inputs)) > 0.5
    assert (difference > 0) == executed
    said = BF16.describe()["openvino:bf16 precision"]
    assert said == f"bf16 asked, {'bf16' if executed else 'f32'} executed"


def test_four_bits_shrink_a_file_and_stay_near(linear: tuple[bytes, NDArray[np.float32]]) -> None:
    """Weights take an eighth and their scales a little; the layers are executed from 4 bits."""
    artefact, x = linear
    stored = INT4.convert(Source(onnx=artefact))
    assert len(stored) < 0.2 * len(artefact)
    assert low_precision(INT4.kernels(stored, [x])) == 1
    expected = run(FLOAT, artefact, x)
    difference = np.abs(run(INT4, stored, x) - expected).max()
    assert 0 < difference < 0.15 * (expected.max() - expected.min())


def test_a_file_of_others_is_served_in_four_bits_too(linear: tuple[bytes, NDArray[np.float32]]) -> None:
    """Otherwise the variant's name would promise what is not done; a second time changes nothing."""
    artefact, x = linear
    stored = four_bits(artefact)
    assert four_bits(stored) == stored
    np.testing.assert_array_equal(run(INT4, artefact, x), run(INT4, stored, x))


def test_int8_layers_are_not_narrowed(sample: Samples) -> None:
    """What the candidate quantizes already is left alone; a network without linear layers is refused."""
    it = sample("int8")
    assert INT4.convert(it.source) == FLOAT.convert(it.source)
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(InfeasibleError, match="no linear layer"):
        INT4.convert(Source(onnx=to_onnx(nn.Sequential(nn.Conv2d(3, 4, 3)), (x,)).SerializeToString()))


def test_blocks_use_all_levels() -> None:
    """The largest weight of a block is exact whatever its sign, others are half a step off, or one at the far end."""
    weight = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    weight[0, :32] = 0
    integers, scale = quantize_q4_0(weight, 32)
    steps = np.repeat(scale, 32, axis=1)
    error = np.abs(integers.astype(np.float32) * steps - weight)
    blocks = np.abs(weight).reshape(6, 2, 32).argmax(axis=2)[..., None]
    assert np.all(np.take_along_axis(error.reshape(6, 2, 32), blocks, axis=2) < 1e-6)
    assert np.all(error <= np.where(weight / steps > 7, 1, 0.5) * np.abs(steps) + 1e-6)
    assert set(np.unique(integers.astype(int))) == set(range(-8, 8))


@pytest.mark.parametrize("threads", [1, 2])
def test_number_of_threads_is_set(linear: tuple[bytes, NDArray[np.float32]], threads: int) -> None:
    """As asked, in one stream."""
    with FLOAT.build(linear[0], threads=threads) as engine:
        compiled = engine.compiled  # type: ignore[attr-defined]
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("NUM_STREAMS") == 1


def test_inputs_may_be_read_only_or_strided(linear: tuple[bytes, NDArray[np.float32]]) -> None:
    """Engines read what they are given, whatever its layout in memory."""
    artefact, x = linear
    locked = np.asfortranarray(x)
    locked.flags.writeable = False
    np.testing.assert_array_equal(run(FLOAT, artefact, locked), run(FLOAT, artefact, x))
    locked = x.copy()
    locked.flags.writeable = False
    np.testing.assert_array_equal(run(FLOAT, artefact, locked), run(FLOAT, artefact, x))


def test_operation_it_does_not_know_is_named() -> None:
    """The reason says which operation is in the way."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Unheard", ["x"], ["y"], domain="of")], "graph", [x], [y])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("of", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    with (
        pytest.raises(InfeasibleError, match=r"operations: of\.Unheard\.$"),
        FLOAT.build(model.SerializeToString(), threads=1),
    ):
        pass


def test_shapes_that_do_not_fit_are_infeasible(linear: tuple[bytes, NDArray[np.float32]]) -> None:
    """A batch of other rows is compiled for; rows of another length are refused."""
    artefact, x = linear
    with FLOAT.build(artefact, threads=1) as engine:
        assert engine.infer([x])[0].shape == (4, 10)
        assert engine.infer([x[:3]])[0].shape == (3, 10)
        with pytest.raises(InfeasibleError, match="shapes"):
            engine.infer([x[:, :100]])


@pytest.mark.parametrize(
    ("node", "domain", "told"),
    [
        ("MatMul", "", "Incompatible MatMul matrix dimension.*dimension=4.*dimension=5"),
        ("Foo", "com.microsoft", "No conversion rule found for operations: com.microsoft.Foo"),
    ],
)
def test_a_refusal_tells_what_is_wrong(node: str, domain: str, told: str) -> None:
    """Of OpenVINO's many lines the reason has the one with the cause, not its summary of which nodes failed."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, width]) for name, width in (("x", 4), ("y", 3)))
    weight = numpy_helper.from_array(np.ones((5, 3), np.float32), "w")
    graph = helper.make_graph([helper.make_node(node, ["x", "w"], ["y"], domain=domain)], "net", [x], [y], [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    file = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    with pytest.raises(InfeasibleError, match=told), FLOAT.build(file, threads=1):
        pass
