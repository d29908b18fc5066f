"""Functions between quantized convolutions, which ONNX Runtime computes on integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.modules import LAYERS
from autocompress.compressors.onnx_files.integer_functions import integer_functions
from autocompress.compressors.onnx_files.onnxruntime_layout import integer_outputs, unsigned_activations

from ..quantized import MERGED, Case, in_torch, quantized, served, share


class Gated(nn.Module):
    """A convolution whose outputs another one's sigmoids scale, and which are large and negative."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits."""
        scaled = self.conv(x)
        out: Tensor = self.head(scaled * self.gate(x).sigmoid() + scaled * scaled.sigmoid())
        return out


class Squeezed(nn.Module):
    """Squeeze and excite by convolutions, with some function and some gate."""

    def __init__(self, function: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 8, 3, padding=1), function()
        self.scale = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), function(), nn.Conv2d(4, 8, 1), gate())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), function(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits."""
        x = self.act(self.first(x))
        out: Tensor = self.head(self.second(x * self.scale(x)))
        return out


class Summed(nn.Module):
    """A residual block with SiLU before and after the sum, and both side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(n, 6, 3, padding=1) for n in (3, 6, 6))
        self.act, self.last, self.head = nn.SiLU(), nn.Conv2d(12, 8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits."""
        x = self.act(self.stem(x))
        y = self.act(x + self.b(self.act(self.a(x))))
        out: Tensor = self.head(self.act(self.last(torch.cat([x, y], 1))).flatten(1))
        return out


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "silu": lambda: Squeezed(nn.SiLU, nn.Sigmoid),
    "hardswish": lambda: Squeezed(nn.Hardswish, nn.Hardsigmoid),
    "relu": lambda: Squeezed(nn.ReLU, nn.Hardsigmoid),
    "gated": Gated,
    "summed": Summed,
}


def case(name: str, leave: int | None = None) -> Case:
    """Return a network with all layers in INT8 but the one at a position."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    for module in model.modules():
        if isinstance(module, LAYERS):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None and isinstance(module, nn.Conv2d):
                nn.init.normal_(module.bias, -1.0)
    names = [n for n, module in model.named_modules() if isinstance(module, LAYERS)]
    return quantized(model, {*names} if leave is None else {*names} - {names[leave]})


def files(it: Case) -> tuple[bytes, bytes]:
    """Return a network's file with its functions in float, and on integers."""
    unsigned, batches = unsigned_activations(it.canonical), [[it.images.numpy()]]
    return unsigned, integer_functions(unsigned, batches)


def kinds(file: bytes, folder: Path) -> Counter[str]:
    """Return the operators that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_is_left_in_float(name: str, tmp_path: Path) -> None:
    """Between its input and its outputs the network computes on integers alone, and before it did not."""
    before, after = (kinds(integer_outputs(file, []), tmp_path) for file in files(case(name)))
    in_float = {"Sigmoid", "HardSigmoid", "HardSwish", "Mul", "QuickGelu", "GlobalAveragePool", "Conv", "Add", "Concat"}
    assert not in_float.intersection(after)
    assert in_float.intersection(before)
    assert after["DequantizeLinear"] <= 1
    assert after["QuantizeLinear"] == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay(name: str) -> None:
    """In integer kernels and as the file is written, the network computes what it did, and what PyTorch does."""
    it = case(name)
    before, after = files(it)
    written = served(after, it.images, fused=False)
    assert share(written, served(before, it.images, fused=False)) < MERGED
    assert share(served(after, it.images), written) < MERGED
    assert share(written, in_torch(it)) < MERGED


def test_hard_sigmoid_is_exact_on_integers() -> None:
    """The sum that takes its place saturates where it does: on all inputs no level is more than a rounding off."""
    it = case("hardswish")
    file = onnx.load_from_string(files(it)[1])
    stored = {c.name: onnx.numpy_helper.to_array(c) for c in file.graph.initializer}
    sloped = next(node for node in file.graph.node if node.output[0].endswith("_gate_sloped"))
    step, zero = (stored[name] for name in sloped.input[1:])
    gate = np.clip((np.arange(256) - float(zero)) * float(step) + 0.5, 0, 1)
    x = (np.arange(256) - float(zero)) * float(step) * 6
    expected = nn.functional.hardsigmoid(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(gate, expected, atol=1e-6)
    assert x[0] >= -3.001  # below, hard-swish is 0, and needs no levels


def test_a_gate_of_something_else_cuts_nothing_off() -> None:
    """A tensor that is also scaled by another's sigmoid keeps its whole range."""
    it = case("gated")
    file = onnx.load_from_string(files(it)[1])
    stored = {c.name: onnx.numpy_helper.to_array(c) for c in file.graph.initializer}
    conv = next(n for n in file.graph.node if n.op_type == "QuantizeLinear" and "conv" in n.input[0].lower())
    least = -float(stored[conv.input[2]]) * float(stored[conv.input[1]])
    with torch.no_grad():
        assert least <= 0.9 * float(it.model.conv(it.images).min())  # type: ignore[operator]


@pytest.mark.parametrize("leave", [0, 3])
def test_a_function_beside_a_layer_in_float_stays_in_float(leave: int, tmp_path: Path) -> None:
    """A function between a quantized layer and one in float is not rounded for nothing."""
    after = kinds(files(case("silu", leave))[1], tmp_path)
    assert after["Sigmoid"] + after["QuickGelu"] >= 1


def test_without_calibration_or_functions_the_file_stays() -> None:
    """There is nothing to change where no ranges are known, and in a network of ReLU alone."""
    unsigned, _ = files(case("silu"))
    assert integer_functions(unsigned, []) == unsigned
