"""Handwritten digits in batches, and how the strangers' networks learn theirs in a second or two."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autocompress import Task
from autocompress.studies.task import cross_entropy

Batches = list[tuple[Tensor, Tensor]]

PARTS = ((0, 1000), (1000, 1400), (1400, 1797))
"""Examples to train on, to validate with and to test with."""


def examples() -> tuple[Tensor, Tensor]:
    """Return all digits, as images of shape (1, 8, 8), and their labels, in an order of chance."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    return images[order], labels[order]


def batches(inputs: Tensor, labels: Tensor, size: int = 40) -> Batches:
    """Return examples in batches."""
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def digits() -> list[Batches]:
    """Return the digits to train on, to validate with and to test with."""
    images, labels = examples()
    return [batches(images[begin:end], labels[begin:end]) for begin, end in PARTS]


def fit(net: nn.Module, train: Any, epochs: int = 5, loss: Any = cross_entropy) -> nn.Module:
    """Train a network for a few passes, and return it as it is served."""
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], 3e-3)
    for _ in range(epochs):
        for batch in train:
            optimizer.zero_grad()
            loss(net, batch).backward()
            optimizer.step()
    return net.eval()


def briefly(net: nn.Module, example: Any, parts: Any, **more: Any) -> Task:
    """Return the task of a network, which trials train for half a pass."""
    train, validation, test = parts
    return Task(net, example, train, validation, test=test, epochs=0.5, final_epochs=0.5, **more)


def classifier(net: nn.Module, epochs: int = 5, **more: Any) -> Task:
    """Return the task of a network that has learned the digits."""
    parts = digits()
    return briefly(fit(net, parts[0], epochs, more.get("loss", cross_entropy)), torch.zeros(1, 1, 8, 8), parts, **more)


def tail(width: int, classes: int = 10) -> list[nn.Module]:
    """Return the last layers of a classifier of images."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
