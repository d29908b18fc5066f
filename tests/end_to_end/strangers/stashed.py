"""An attention pool that keeps its last map as an attribute, for plots."""

from __future__ import annotations

import torch
from learned import classifier
from torch import Tensor, nn

from autocompress import Task


class AttentionPool(nn.Module):
    """A mean over positions, weighted by what a layer says of each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Conv2d(width, 1, 1)
        self.last_map: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return one vector for each image."""
        self.last_map = self.score(x).flatten(2).softmax(-1)
        return (x.flatten(2) * self.last_map).sum(-1)


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    body: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
        body += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return classifier(nn.Sequential(*body[:2], nn.MaxPool2d(2), *body[2:], AttentionPool(64), nn.Linear(64, 10)), 10)
