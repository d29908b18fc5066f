"""Networks to rewrite into other number formats, and what is read from their files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from autocompress.compressors.onnx_files import qdq
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.quantization.quantize import Quantize, strip
from autocompress.compressors.technique import Supplies
from autocompress.spaces.candidate import Candidate


class Attention(nn.Module):
    """A linear layer, a layer norm, attention of a token to all, GELU and a linear layer: what overflows first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences of features to sequences of five numbers."""
        x = self.norm(self.embed(x))
        x = (x @ x.transpose(1, 2) / 8).softmax(2) @ x
        out: Tensor = self.head(nn.functional.gelu(x))
        return out


def convolutions() -> nn.Module:
    """Return convolutions, one of them depthwise, a pool, its opposite and a head."""
    return nn.Sequential(
        *(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6()),
        *(nn.AvgPool2d(2), nn.Upsample(scale_factor=2), nn.Conv2d(16, 8, 1), nn.Flatten(), nn.Linear(512, 5)),
    )


def linear() -> nn.Module:
    """Return linear layers alone."""
    return nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 5))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "attention": (Attention, (6, 64)),
    "convolutions": (convolutions, (4, 8, 8)),
    "linear": (linear, (128,)),
}


@cache
def data(name: str) -> Tensor:
    """Return inputs."""
    return torch.randn(16, *NETWORKS[name][1], generator=torch.Generator().manual_seed(1))


@cache
def file(name: str, bits: int = 32, leave: str = "") -> bytes:
    """Return a network's float file, or the canonical file with all layers in INT8, but one on request."""
    torch.manual_seed(0)
    model = NETWORKS[name][0]().eval()
    supplies = Supplies(examples=(data(name)[:1],), calibration=[(data(name),)])
    layers = {n: bits for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and n != leave}
    plain, scales = strip(Quantize().apply(model, Candidate({"bits": layers}), supplies))
    return qdq.insert(to_onnx(plain, supplies.examples), plain, scales, supplies.calibration).SerializeToString()


def served(content: bytes, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what ONNX Runtime computes, as the file is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs})
    return output


def difference(name: str, changed: bytes, original: bytes) -> float:
    """Return the largest difference of the outputs of two files as a share of the outputs' range."""
    inputs = data(name).numpy()
    actual, expected = served(changed, inputs), served(original, inputs)
    assert actual.dtype == np.float32
    return float(np.abs(actual - expected).max() / np.ptp(expected))


def constants(content: bytes) -> dict[str, NDArray[np.generic]]:
    """Return the constants of a file by name."""
    return {i.name: numpy_helper.to_array(i) for i in onnx.load_from_string(content).graph.initializer}


def types(content: bytes) -> dict[str, int]:
    """Return the element type of every tensor that a file computes."""
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(content), strict_mode=True)
    return {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}


def product(weight: NDArray[np.floating], bits: int = 32, scale: float = 1.0) -> bytes:
    """Return a file of ``x @ weight``, with 8 bits of ``x`` rounded to steps of a scale."""
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["y"])]
    stored = [numpy_helper.from_array(weight, "weight")]
    if bits == 8:
        integers, scales = qdq.quantize_weight(weight, 1)
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
            helper.make_node("DequantizeLinear", ["integers", "scales", "zeros"], ["w"], axis=1),
            helper.make_node("MatMul", ["d", "w"], ["y"]),
        ]
        values = {"step": np.float32(scale), "zero": np.int8(0), "integers": integers, "scales": scales}
        values["zeros"] = np.zeros(scales.shape, np.int8)
        stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", s]) for n, s in zip("xy", weight.shape, strict=True)
    )
    graph = helper.make_graph(nodes, "product", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
