"""A small network that every runtime must be able to serve, in float and in INT8."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

BATCH = 16
SIZE, CLASSES = 32, 10
QUANTIZED = frozenset({"first", "second", "last"})


@dataclass(frozen=True, kw_only=True, eq=False)
class Specimen:
    """A network in the forms that runtimes take, with inputs and what PyTorch makes of them.

    Attributes:
        module: in PyTorch.
        onnx: as a canonical file in float.
        int8: the same with all layers in INT8.
        inputs: `BATCH` examples.
        expected: PyTorch's outputs in float.

    """

    module: nn.Module
    onnx: bytes
    int8: bytes
    inputs: NDArray[np.float32]
    expected: NDArray[np.float32]


def sample_network() -> Specimen:
    """Return the network; the same in every process."""
    from ...compressors.onnx_files.qdq import insert  # noqa: PLC0415  # start-up time: torch is slow to import
    from ...compressors.quantization.calibration import Grid  # noqa: PLC0415  # start-up time: torch is slow to import
    from ...compressors.quantization.quantize import Scales  # noqa: PLC0415  # start-up time: torch is slow to import

    module = network()
    inputs = torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    scales: dict[str, Scales] = {}
    x = inputs
    with torch.no_grad():
        for name, layer in module.named_children():
            if name in QUANTIZED:
                scales[name] = Scales(input=Grid(float(x.abs().max()) / 127))
            x = layer(x)
    graph = _onnx(module)
    return Specimen(
        module=module,
        onnx=graph.SerializeToString(),
        int8=insert(graph, module, scales, [(inputs,)]).SerializeToString(),
        inputs=inputs.numpy(),
        expected=x.numpy(),
    )


def network() -> nn.Sequential:
    """Return the network in PyTorch, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            OrderedDict(
                first=nn.Conv2d(3, 16, 3, padding=1),
                relu=nn.ReLU(),
                second=nn.Conv2d(16, 32, 3, stride=2, padding=1),
                relu_too=nn.ReLU(),
                flatten=nn.Flatten(),
                last=nn.Linear(32 * (SIZE // 2) ** 2, CLASSES),
            )
        )
    return module.eval()


def _onnx(module: nn.Sequential) -> onnx.ModelProto:
    """Return the network as torch's exporter would write it."""

    def conv(name: str, taken: str, made: str, stride: int) -> onnx.NodeProto:
        inputs = [taken, f"{name}.weight", f"{name}.bias"]
        window = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [stride, stride]}
        node = helper.make_node("Conv", inputs, [made], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in window.items())
        return node

    nodes = [
        conv("first", "x", "a", 1),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        conv("second", "b", "c", 2),
        helper.make_node("Relu", ["c"], ["d"], "relu_too"),
        helper.make_node("Flatten", ["d"], ["e"], "flatten", axis=1),
        helper.make_node("Gemm", ["e", "last.weight", "last.bias"], ["y"], "last", transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CLASSES])
    weights = [numpy_helper.from_array(value.detach().numpy(), name) for name, value in module.state_dict().items()]
    graph = helper.make_graph(nodes, "specimen", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
