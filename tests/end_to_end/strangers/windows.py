"""Attention in windows that finds the size of its batch, as a Python number, from the count of windows."""

from __future__ import annotations

import torch
from learned import classifier
from torch import Tensor, nn
from torch.nn import functional

from autocompress import Task

SIDE = 4


class Net(nn.Module):
    """A stem, attention in windows, two linear layers and a head."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down, self.head = nn.Linear(width, 96), nn.Linear(96, width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.stem(x).permute(0, 2, 3, 1)
        query, key, value = self.qkv(self.windows(self.norm(x))).chunk(3, -1)
        mixed = (query @ key.transpose(1, 2) / 7).softmax(-1) @ value
        x = x + self.whole(self.proj(mixed), *x.shape[1:3])
        return self.head((x + self.down(functional.gelu(self.up(x)))).mean((1, 2)))

    def windows(self, x: Tensor) -> Tensor:
        """Cut maps into windows, one after the other."""
        batch, height, width, channels = x.shape
        x = x.view(batch, height // SIDE, SIDE, width // SIDE, SIDE, channels)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, SIDE * SIDE, channels)

    def whole(self, x: Tensor, height: int, width: int) -> Tensor:
        """Put windows together again."""
        batch = int(x.shape[0] / (height * width / SIDE / SIDE))
        x = x.view(batch, height // SIDE, width // SIDE, SIDE, SIDE, -1)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    return classifier(Net(), 10)
