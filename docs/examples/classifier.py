"""A study of a classifier with a loader of its own.

Train the network, then compress it::

    python classifier.py
    autocompress classifier.py --target-latency 10us --trials 12
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from autocompress import Task

WEIGHTS = Path(__file__).with_name("classifier.pth")


class Digits:
    """Batches of handwritten digits, shuffled and shifted by a pixel where they are for training."""

    def __init__(self, part: slice, *, training: bool = False) -> None:
        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.target))[part]
        self.images, self.labels = data.images[order].astype(np.float32) / 16, data.target[order]
        self.training = training

    def __len__(self) -> int:
        """Return the number of batches in a pass."""
        return -(-len(self.labels) // 32)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a pass; the order is drawn from NumPy's global state, which is seeded for each trial."""
        order = np.random.permutation(len(self.labels)) if self.training else np.arange(len(self.labels))
        for each in range(len(self)):
            chosen = order[each * 32 : each * 32 + 32]
            shift = np.random.randint(-1, 2) if self.training else 0
            images = np.roll(self.images[chosen], shift, axis=2)[:, None]
            yield torch.from_numpy(images), torch.from_numpy(self.labels[chosen])


def network() -> nn.Module:
    """Return the untrained network."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def task() -> Task:
    """Return what autocompress needs: the trained network, an example of its inputs, and the data."""
    net = network()
    net.load_state_dict(torch.load(WEIGHTS))
    train, validation, test = slice(1197), slice(1197, 1497), slice(1497, None)
    return Task(net, torch.zeros(1, 1, 8, 8), Digits(train, training=True), Digits(validation), test=Digits(test))


def train(epochs: int = 5) -> None:
    """Train the network and keep its weights."""
    torch.manual_seed(0)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for images, labels in Digits(slice(1197), training=True):
            optimizer.zero_grad()
            functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    torch.save(net.state_dict(), WEIGHTS)


if __name__ == "__main__":
    train()
