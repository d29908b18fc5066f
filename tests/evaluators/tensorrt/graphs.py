"""Small networks of each family that is served, exported as a study exports them, in each precision."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, VisionTransformer, resnet18
from torchvision.ops import SqueezeExcitation

from autocompress.compressors.onnx_files.number_formats import float8, half, int4_weights, two_four
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.errors import InfeasibleError
from autocompress.evaluators.tensorrt.build import BuildOptions, Profile, build
from autocompress.spaces.candidate import BITS, Candidate
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

CLASSES = 10


class Excited(nn.Module):
    """Inverted residuals with squeeze-and-excitation and SiLU, as in EfficientNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.blocks = nn.ModuleList(self._block(16, 64) for _ in range(2))
        self.head = nn.Linear(16, CLASSES)

    @staticmethod
    def _block(width: int, wide: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(width, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.SiLU(),
            SqueezeExcitation(wide, 8, activation=nn.SiLU),
            nn.Conv2d(wide, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Dense(nn.Module):
    """Layers that read the concatenation of all before them, as in DenseNet, and a transition with a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(w), nn.ReLU(), nn.Conv2d(w, 16, 3, padding=1)) for w in (16, 32, 48)
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 32, 1), nn.AvgPool2d(2))
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        seen = [self.stem(x)]
        for layer in self.layers:
            seen.append(layer(torch.cat(seen, 1)))
        logits: Tensor = self.head(self.transition(torch.cat(seen, 1)).mean((2, 3)))
        return logits


class Encoder(nn.Module):
    """Token embeddings and a transformer encoder, as in BERT; its tokens are given as features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(32, 64)
        self.positions = nn.Parameter(torch.randn(1, 16, 64) / 8)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences of 16 tokens to logits."""
        logits: Tensor = self.head(self.layers(self.embed(x) + self.positions)[:, 0])
        return logits


def _pooled() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(64, CLASSES)),
    )


def _signal() -> nn.Module:
    """Return a classifier of signals, in one dimension."""
    return nn.Sequential(
        *(nn.Conv1d(1, 16, 9, stride=2, padding=4), nn.BatchNorm1d(16), nn.ReLU()),
        *(nn.Conv1d(16, 32, 9, stride=2, padding=4), nn.BatchNorm1d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )


def _volume() -> nn.Module:
    """Return a classifier of volumes, in three dimensions."""
    return nn.Sequential(
        *(nn.Conv3d(1, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(16, 32, 3, padding=1), nn.BatchNorm3d(32), nn.ReLU()),
        *(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )


class Decoder(nn.Module):
    """An encoder and decoder with a skip connection, as in U-Net, whose transposed convolutions have batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.up, self.norm = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.BatchNorm2d(16)
        self.head = nn.Conv2d(32, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to the logits of images, whose mean they are."""
        x = self.first(x).relu()
        y = self.norm(self.up(self.down(x).relu())).relu()
        logits: Tensor = self.head(torch.cat([x, y], 1)).mean((2, 3))
        return logits


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def _mobilenet() -> nn.Module:
    shapes = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]  # expansion, channels, blocks, stride
    return MobileNetV2(num_classes=CLASSES, inverted_residual_setting=shapes, dropout=0.0)


def _vit() -> nn.Module:
    return VisionTransformer(32, 8, 2, 2, 64, 128, num_classes=CLASSES)


def _deit() -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer as Timm

    model: nn.Module = Timm(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=CLASSES)
    return model


@dataclass(frozen=True)
class Family:
    """A network's builder, and the shape of one example."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (3, 32, 32)


FAMILIES = {
    "residual": Family(lambda: ResidualNet((16, 32), (1, 1), channels=3, classes=CLASSES)),
    "resnet18": Family(lambda: resnet18(num_classes=CLASSES)),
    "mobilenet": Family(_mobilenet),
    "squeeze-excite": Family(Excited),
    "dense": Family(Dense),
    "pooled": Family(_pooled),
    "mlp": Family(_mlp, (64,)),
    "encoder": Family(Encoder, (16, 32)),
    "vit": Family(_vit),
    "deit": Family(_deit),
    "signal": Family(_signal, (1, 64)),
    "volume": Family(_volume, (1, 8, 8, 8)),
    "decoder": Family(Decoder, (3, 16, 16)),
}

SMALL = ("residual", "squeeze-excite", "dense", "signal", "volume", "decoder")
"""Families whose linear layers, if there are some, are too small for blocks of INT4 weights."""

PRECISIONS: dict[str, Callable[[str], bytes]] = {
    "fp32": lambda family: exported(family),
    "fp16": lambda family: half(exported(family)),
    "int8": lambda family: exported(family, 8),
    "int8+fp16": lambda family: half(exported(family, 8)),
    "fp8": lambda family: float8(exported(family, 8)),
    "fp8+fp16": lambda family: half(float8(exported(family, 8))),
    "int4": lambda family: int4_weights(exported(family)),
    "int4+fp16": lambda family: half(int4_weights(exported(family))),
    "2:4+fp16": lambda family: two_four(half(exported(family))),
    "2:4+int8": lambda family: two_four(exported(family, 8)),
}

ALL = [(f, p) for f in FAMILIES for p in PRECISIONS if not (f in SMALL and p.startswith("int4"))]
"""Families and precisions of all graphs that are built."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What became of a graph in NVIDIA's builder: a plan of so many bytes, or a reason.

    Attributes:
        family: of the network.
        precision: of its layers.
        capability: the compute capability that it was built for.
        plan_bytes: size of the engine; 0 where there is none.
        seconds: that the builder took.
        refused: why there is no engine.
        log: what the builder said.
    """

    family: str
    precision: str
    capability: str
    plan_bytes: int
    seconds: float
    refused: str = ""
    log: tuple[str, ...] = ()


def attempt(trt: Any, family: str, precision: str, *capabilities: str) -> Attempt:
    """Build a graph with a free batch for compute capabilities."""
    file = graph(family, precision)
    options = BuildOptions(capabilities=capabilities, sparse="2:4" in precision)
    size, refused, log = 0, "", ()
    began = time.perf_counter()
    try:
        built = build(trt, file, shapes=batches(family, 1, 4, 8), options=options)
        size, log = len(built.plan), built.log
    except InfeasibleError as error:
        refused = error.reason
    return Attempt(
        family=family,
        precision=precision,
        capability="+".join(capabilities),
        plan_bytes=size,
        seconds=time.perf_counter() - began,
        refused=refused,
        log=log,
    )


@cache
def graph(family: str, precision: str) -> bytes:
    """Return the ONNX file of a family's network in a precision."""
    return PRECISIONS[precision](family)


@cache
def task(family: str) -> Task:
    """Return a family's network with statistics as of a trained one, and random data."""
    torch.manual_seed(0)
    it = FAMILIES[family]
    model = it.build().train()
    batches = [(torch.randn(4, *it.shape), torch.zeros(4, dtype=torch.long)) for _ in range(2)]
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
        for parameter in model.parameters():
            if not parameter.any():  # some start with biases and heads of zeros
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[-1]))
    return Task(model=model.eval(), example_inputs=batches[0][0][:1], train=batches, validation=batches)


@cache
def exported(family: str, bits: int = 32) -> bytes:
    """Return the canonical file of a family's network with all its layers at so many bits."""
    it = task(family)
    layers = inspect(it.model, it.examples).layers
    candidate = Candidate({BITS: {layer.name: bits for layer in layers}}) if bits != 32 else Candidate()
    return apply_candidate(it, candidate, supplies_of(it), epochs=0).onnx


def batches(family: str, smallest: int, usual: int, largest: int) -> dict[str, Profile]:
    """Return the profile of a family's input for batches of some sizes."""
    shape = FAMILIES[family].shape
    return {"input": ((smallest, *shape), (usual, *shape), (largest, *shape))}
