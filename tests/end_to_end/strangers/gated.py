"""Gated convolutions with group norms, and between them stages that could be pruned."""

from __future__ import annotations

import torch
from learned import classifier
from torch import Tensor, nn
from torch.nn import functional

from autocompress import Task


class Gated(nn.Module):
    """A convolution whose second half of channels opens and shuts the first."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, 2 * outputs, 3, padding=1), nn.GroupNorm(16, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return the first half of the channels."""
        return functional.glu(self.norm(self.conv(x)), 1)


class Net(nn.Module):
    """A gated stage, two plain ones and a gated one."""

    def __init__(self) -> None:
        super().__init__()
        stages = [(32, 64), (64, 64)]
        self.first, self.last = Gated(1, 32), Gated(64, 48)
        self.plain = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(16, o), nn.ReLU()) for i, o in stages)
        )
        self.head = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.last(self.plain(functional.max_pool2d(self.first(x), 2))).mean((2, 3)))


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    return classifier(Net(), 8)
