"""Channels with weights about 0 and a bias that is not, as weight decay, penalties and norms of scale 0 make them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from autocompress.compressors.modules import LAYERS, grouped, out_channels
from autocompress.compressors.onnx_files.onnxruntime_layout import unsigned_activations
from autocompress.compressors.quantization.calibration import LARGEST_BIAS
from autocompress.compressors.quantization.quantize import Quantized
from autocompress.evaluators import runtimes
from autocompress.evaluators.runtime import Source

from ..quantized import CHAIN, TIGHT, Case, a_few_steps, constants, in_torch, network, rounded, served, share

KINDS = ("chain", "depthwise", "mlp", "tokens", "signal", "decoder")
"""Conv, depthwise Conv, Gemm, MatMul and Add, Conv of one dimension, ConvTranspose."""

FACTORS = (1e-4, 1e-5, 1e-6, 0.0)
SHARE = 1.6 * CHAIN
"""Largest difference from PyTorch, in which the file's finer steps after a ReLU and its narrower weights are."""


@cache
def dead(kind: str, factor: float, scales: str = "fixed") -> Case:
    """Return a network in INT8 in which one channel of each layer is nearly dead, with a bias of 1.5."""
    model = network(kind)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LAYERS)}
    for layer in layers.values():
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(out_channels(layer)))
        with torch.no_grad():
            grouped(layer).flatten(0, 1)[1] *= factor
            layer.bias[1] = 1.5
    return rounded(model, dict.fromkeys(layers, 8), a_few_steps if scales == "learned" else None, scales=scales)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_runtime_computes_what_pytorch_does(kind: str, factor: float) -> None:
    """However small a channel's weights are, the bias beside them counts, and spoils nothing."""
    it = dead(kind, factor)
    images = it.images.numpy()
    for name in ("onnxruntime", "openvino"):
        runtime = runtimes.load(name)
        file = runtime.convert(Source(onnx=it.canonical, examples=[images], calibration=[[images]]))
        with runtime.build(file, threads=1) as engine:
            (outputs,) = engine.infer([images])
        assert share(outputs, in_torch(it)) < SHARE
    assert share(served(it.canonical, it.images), in_torch(it)) < CHAIN


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_costs_a_dead_channel_nothing(kind: str) -> None:
    """What PyTorch simulates is near the network in float."""
    it = dead(kind, 0.0)
    expected = served(it.float_file.SerializeToString(), it.images)
    assert share(in_torch(it), expected) < SHARE


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_bias_is_left_for_onnx_runtime_to_round(kind: str, factor: float, tmp_path: Path) -> None:
    """Neither its file nor what its optimiser makes of it has a quantized layer whose bias is in float."""
    written = onnx.load_from_string(unsigned_activations(dead(kind, factor).canonical))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(written.SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    biases = 0
    for file in (written, optimised):
        stored = constants(file)
        restored = {node.output[0] for node in file.graph.node if node.op_type == "DequantizeLinear"}
        for node in file.graph.node:
            inputs = node.input[:3]
            if node.op_type in {"Conv", "Gemm"} and len(inputs) == 3 and restored & {*inputs[:2]}:
                assert inputs[2] in restored
                biases += 1
            if node.op_type == "QLinearConv" and len(node.input) > 8:
                assert np.abs(stored[node.input[8]].astype(np.int64)).max() < 2 * LARGEST_BIAS
                biases += 1
    assert biases


@pytest.mark.parametrize("kind", sorted(TIGHT))
def test_training_rounds_dead_channels_as_the_file_does(kind: str) -> None:
    """Also where steps are trained, and after weights and biases have moved."""
    it = dead(kind, 1e-7, "learned")
    assert share(served(it.canonical, it.images, fused=False), in_torch(it)) < CHAIN
    layers = [module for module in it.model.modules() if isinstance(module, Quantized)]
    assert layers
    for layer in layers:
        assert layer.bias is not None
        assert layer.scales.weight is not None
        products = layer.scales.input.step * layer.scales.weight
        assert np.abs(layer.bias.detach().numpy() / products).max() < 2 * LARGEST_BIAS


def test_a_layer_behind_a_dead_one_computes_its_bias() -> None:
    """Its inputs are always 0, so that their step is as small as can be."""
    model = network("chain")
    with torch.no_grad():
        model[0].weight.zero_()
        model[1].bias.fill_(-1.0)
    it = rounded(model, {"0": 8, "3": 8, "6": 8})
    for file in (it.canonical, unsigned_activations(it.canonical)):
        np.testing.assert_allclose(served(file, it.images), in_torch(it), rtol=0.02, atol=0.02)


def test_living_channels_keep_their_steps() -> None:
    """Elsewhere a channel's largest weight is 127, whatever its bias."""
    layer = Quantized(nn.Linear(8, 4), 8)
    layer(torch.randn(16, 8))
    layer.round_input.calibrated()
    expected = layer.weight.detach().abs().amax(1).numpy() / 127
    np.testing.assert_array_equal(layer.scales.weight, expected)
