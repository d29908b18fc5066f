"""Small networks in INT8, as the canonical file and in PyTorch, and what compares them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.compressors.modules import LAYERS
from autocompress.compressors.onnx_files import qdq
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.quantization.quantize import Quantize, calibration_of, strip
from autocompress.compressors.technique import Supplies
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.capabilities import SYMMETRIC, Integers

FINE = Integers(asymmetric=True, narrow=True)
"""What ONNX Runtime and OpenVINO take."""

CHAIN = 0.02
"""Largest difference between PyTorch and the file where every rounding is simulated, as a share of the range."""

MERGED = 0.1
"""The same where additions, concatenations and pools are rounded too, which PyTorch does not simulate."""

SHARED = {"twice"}
"""Networks in which two nodes read one weight; ONNX Runtime does not load them with the option of `served`."""

FLAVOUR = 0.1
"""Largest difference between two layouts of the same ranges, one with twice as many steps after a ReLU."""


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
        """Map images to five logits, taking one channel as a sequence of rows."""
        x = self.second(self.first(x[:, 0]).relu()).relu()
        out: Tensor = self.head(x.flatten(1))
        return out


class Signal(nn.Module):
    """Convolutions of one dimension, one of them dilated."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(3, 8, 5, stride=2, padding=2, bias=False), nn.BatchNorm1d(8)
        self.second, self.head = nn.Conv1d(8, 8, 3, padding=2, dilation=2), nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits, taking one row as a signal."""
        x = self.second(self.norm(self.first(x[:, :, 0])).relu()).relu()
        out: Tensor = self.head(x.flatten(1))
        return out


class Stream(nn.Module):
    """Two residual branches of linear layers on sequences, each behind a layer norm, as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        self.branches = nn.ModuleList(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits, taking one channel as a sequence of rows."""
        x = self.embed(x[:, 0])
        for branch in self.branches:
            x = x + branch(x)
        out: Tensor = self.head(x.mean(1))
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


def decoder() -> nn.Sequential:
    """Return a transposed convolution with a batch norm."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 8, 2, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 5),
    )


def mlp() -> nn.Sequential:
    """Return linear layers alone."""
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 5))


TIGHT: dict[str, Callable[[], nn.Module]] = {
    "chain": chain,
    "depthwise": depthwise,
    "mlp": mlp,
    "signal": Signal,
    "decoder": decoder,
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
def case(name: str, leave: int | None = None, seed: int = 0, integers: Integers = SYMMETRIC) -> Case:
    """Return a network with all layers in INT8 but the one at a position."""
    model = network(name, seed)
    names = [n for n, module in model.named_modules() if isinstance(module, LAYERS)]
    return quantized(model, {*names} if leave is None else {*names} - {names[leave % len(names)]}, integers)


def network(name: str, seed: int = 0) -> nn.Module:
    """Return a network with random weights."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    for module in model.modules():
        if isinstance(module, LAYERS):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.running_var, 1.0, 4.0)
    return model


def quantized(model: nn.Module, layers: set[str], integers: Integers = SYMMETRIC) -> Case:
    """Return a network for images of 8 × 8 with some layers in INT8."""
    return rounded(model, dict.fromkeys(sorted(layers), 8), integers=integers)


def rounded(
    model: nn.Module,
    bits: Mapping[str, int],
    train: Callable[[nn.Module, Tensor], None] | None = None,
    integers: Integers = SYMMETRIC,
    **chosen: str,
) -> Case:
    """Return a network for images of 8 × 8 with some layers in so many bits, by the settings given.

    Args:
        model: the network.
        bits: of its layers.
        train: changes the quantized network, given images, before it is exported.
        integers: that are taken.
        chosen: settings of quantization.

    """
    images = torch.randn(32, 3, 8, 8)
    names = {n for n, module in model.named_modules() if isinstance(module, LAYERS)}
    supplies = Supplies(examples=(images[:1],), calibration=[(images[:16],), (images[16:],)], integers=integers)
    candidate = Candidate({"bits": bits, "quantization": chosen})
    simulated = Quantize().apply(model.eval(), candidate, supplies)
    if train is not None:
        train(simulated, images)
    plain, scales = strip(simulated)
    float_file = to_onnx(plain, supplies.examples)
    file = qdq.insert(
        float_file,
        plain,
        scales,
        supplies.calibration,
        method=calibration_of(candidate),
        asymmetric=integers.asymmetric,
    )
    left = frozenset(names - bits.keys())
    return Case(model=simulated, float_file=float_file, file=file, images=images, float_layers=left)


def mixed_bits(model: nn.Module, chosen: Sequence[int]) -> dict[str, int]:
    """Return the bits of a network's layers: those chosen in turn, 8 where 4 cannot be, none where 32 are."""
    layers = {n: module for n, module in model.named_modules() if isinstance(module, LAYERS)}
    found = {}
    for (name, layer), bits in zip(layers.items(), itertools.cycle(chosen), strict=False):
        four = isinstance(layer, nn.Linear) and layer.in_features % 16 == 0
        found[name] = 8 if bits == 4 and not four else bits
    return {name: bits for name, bits in found.items() if bits < 32}


def a_few_steps(model: nn.Module, images: Tensor) -> None:
    """Train a network a little, so that weights and scales are not what calibration made."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(5):
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()
    model.eval()


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
