"""Quantization in the ONNX file: what it computes, and what the canonical layout promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from autocompress.compressors import qdq
from autocompress.compressors.export import to_onnx
from autocompress.compressors.flavours import unsigned_activations
from autocompress.compressors.quantize import Quantize, strip
from autocompress.compressors.technique import Supplies

CHAIN = 0.02
"""Largest difference between PyTorch and the file where every rounding is simulated, as a share of the range."""

MERGED = 0.1
"""The same where additions, concatenations and pools are rounded too, which PyTorch does not simulate."""

SHARED = {"twice"}
"""Networks in which two nodes read one weight; ONNX Runtime does not load them with the option of `served`."""

FLAVOUR = 0.1
"""Largest difference between two layouts of the same ranges, of which one has twice as many steps after a ReLU."""


class Residual(nn.Module):
    """Two convolutions added to a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(n, 6, 3, padding=1) for n in (3, 6, 6))
        self.head = nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits."""
        x = self.stem(x).relu()
        x = (x + self.b(self.a(x).relu())).relu()
        out: Tensor = self.head(x.flatten(1))
        return out


class Concat(nn.Module):
    """Two branches side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.merge, self.head = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits."""
        both = torch.cat((self.left(x).relu(), self.right(x)), 1)
        out: Tensor = self.head(self.merge(both).relu().flatten(1))
        return out


class Twice(nn.Module):
    """A convolution that runs twice, on numbers of different size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.other, self.head = nn.Conv2d(6, 6, 1), nn.Linear(6 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits."""
        x = self.shared(self.shared(self.stem(x).relu()).relu()).relu()
        out: Tensor = self.head(self.other(x).relu().flatten(1))
        return out


class Tokens(nn.Module):
    """Linear layers on sequences, which ONNX writes as a product and an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images, of which one channel is taken as a sequence of rows, to five logits."""
        x = self.second(self.first(x[:, 0]).relu()).relu()
        out: Tensor = self.head(x.flatten(1))
        return out


def chain() -> nn.Sequential:
    """Return convolutions with batch norms and ReLU, and a head."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )


def depthwise() -> nn.Sequential:
    """Return a depthwise and a pointwise convolution with ReLU6."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.ReLU6(),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(4 * 64, 5),
    )


def pooled(pool: Callable[[], nn.Module], size: int) -> Callable[[], nn.Sequential]:
    """Return what builds a network with a pool between its convolution and its head."""
    return lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * size**2, 5)
    )


def mlp() -> nn.Sequential:
    """Return linear layers alone."""
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 5))


TIGHT: dict[str, Callable[[], nn.Module]] = {
    "chain": chain,
    "depthwise": depthwise,
    "mlp": mlp,
    "twice": Twice,
    "tokens": Tokens,
}
LOOSE: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "concat": Concat,
    "max pool": pooled(lambda: nn.MaxPool2d(2), 4),
    "average pool": pooled(lambda: nn.AvgPool2d(2), 4),
    "global average pool": pooled(lambda: nn.AdaptiveAvgPool2d(1), 1),
}
NETWORKS = TIGHT | LOOSE


@dataclass(frozen=True)
class Case:
    """A quantized network, its file, and data inside the calibrated ranges."""

    model: nn.Module
    float_file: onnx.ModelProto
    file: onnx.ModelProto
    images: Tensor
    float_layers: frozenset[str]

    @property
    def canonical(self) -> bytes:
        """The canonical file's bytes."""
        content: bytes = self.file.SerializeToString()
        return content


@cache
def case(name: str, leave: int | None = None, seed: int = 0) -> Case:
    """Return a network with all layers in INT8 but the one at a position."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 1.0, 4.0)
    images = torch.randn(32, 3, 8, 8)
    names = [n for n, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    left = frozenset() if leave is None else frozenset([names[leave % len(names)]])
    supplies = Supplies(examples=(images[:1],), calibration=[(images[:16],), (images[16:],)])
    quantized = Quantize().apply(model.eval(), {n: 8 for n in names if n not in left}, supplies)
    plain, scales = strip(quantized)
    float_file = to_onnx(plain, supplies.examples)
    file = qdq.insert(float_file, plain, scales, supplies.calibration)
    return Case(model=quantized, float_file=float_file, file=file, images=images, float_layers=left)


def served(file: bytes, images: Tensor, *, fused: bool = True) -> np.ndarray:
    """Return what ONNX Runtime computes, with its integer kernels or, not fused, as the file is written."""
    options = onnxruntime.SessionOptions()
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI its sums of products overflow
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return outputs


def share(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference as a share of the range that an output takes, the largest over outputs."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / (expected.max(0) - expected.min(0)).max())


def in_torch(it: Case) -> np.ndarray:
    """Return what PyTorch computes with simulated quantization."""
    with torch.no_grad():
        return it.model(it.images).numpy()


def constants(file: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return the constants of a file by name."""
    return {constant.name: numpy_helper.to_array(constant) for constant in file.graph.initializer}


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
