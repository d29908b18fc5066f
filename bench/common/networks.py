"""Five networks to time runtimes with: random weights, batch-norm statistics as of trained networks, random data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autocompress.studies.normalize import normalized
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

BATCHES, BATCH = 4, 8
CLASSES = 10


class Encoder(nn.Module):
    """A transformer encoder of PyTorch's own layers over a sequence of features, and the mean of its tokens.

    Its attention computes with weights that no layer holds, so that they stay in float.
    """

    def __init__(self, *, width: int = 192, heads: int = 3, layers: int = 4, tokens: int = 64) -> None:
        super().__init__()
        self.embed = nn.Linear(48, width)
        self.positions = nn.Parameter(torch.randn(1, tokens, width) / math.sqrt(width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        for parameter in self.layers.parameters():  # its layers are copies of one; as trained ones they shall differ
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences of shape (N, tokens, 48) to logits (N, classes)."""
        logits: Tensor = self.head(self.norm(self.layers(self.embed(x) + self.positions)).mean(1))
        return logits


def _resnet18() -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.resnet18(weights=None)
    return model


def _mobilenet_v2() -> nn.Module:
    import torchvision

    model: nn.Module = torchvision.models.mobilenet_v2(weights=None)
    return model


def _resnet20() -> nn.Module:
    return ResidualNet((16, 32, 64), (3, 3, 3), channels=3, classes=CLASSES)


def _deit_tiny() -> nn.Module:
    import timm

    model: nn.Module = timm.create_model("deit_tiny_patch16_224", pretrained=False)
    return model


@dataclass(frozen=True)
class Network:
    """How to make a network, and the shape of one example."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


NETWORKS = {
    "resnet18": Network(_resnet18, (3, 224, 224)),
    "mobilenet_v2": Network(_mobilenet_v2, (3, 224, 224)),
    "resnet20": Network(_resnet20, (3, 32, 32)),
    "encoder": Network(Encoder, (64, 48)),
    "deit_tiny": Network(_deit_tiny, (3, 224, 224)),
}


def task_of(name: str) -> Task:
    """Return a task with a network, which is served one example at a time, and a few batches of random data."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    model = network.make()
    batches = [(torch.randn(BATCH, *network.shape), torch.zeros(BATCH, dtype=torch.long)) for _ in range(BATCHES)]
    model.train()
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
    task = Task(model=model.eval(), example_inputs=batches[0][0][:1], train=batches, validation=batches)
    return normalized(task)[0]
