"""What four studies of handwritten digits have in common: noisy digits, batches, and a short training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from autocompress.studies.task import Loader

Batches = list[tuple[Tensor, Tensor]]

BATCH = 32

KEPT = 10
"""Batches that are left of those a network was trained on when it is compressed, as where most of its data is gone."""

PARTS = {"train": slice(0, 1100), "validation": slice(1100, 1450), "test": slice(1450, None)}
"""Digits of which each part is made; no digit is in two of them."""


def digits(part: str) -> tuple[Tensor, Tensor]:
    """Return the images (N, 8, 8) of a part, between 0 and 1, and their classes (N,)."""
    data = load_digits()
    images, classes = torch.from_numpy(data.images).float() / 16, torch.from_numpy(data.target)
    return images[PARTS[part]], classes[PARTS[part]]


def canvas(part: str, count: int, size: int, *, each: int) -> tuple[Tensor, list[list[tuple[int, int, int, Tensor]]]]:
    """Return canvases (count, size, size), and for each the class, top, left and image of the digits on it."""
    generator = torch.Generator().manual_seed(len(part))
    images, classes = digits(part)
    drawn, told = torch.zeros(count, size, size), []
    for picture in drawn:
        there = []
        for number in torch.randint(len(images), (each,), generator=generator).tolist():
            top, left = torch.randint(size - 7, (2,), generator=generator).tolist()
            spot = picture[top : top + 8, left : left + 8]
            torch.maximum(spot, images[number], out=spot)
            there.append((int(classes[number]), top, left, images[number]))
        told.append(there)
    return drawn, told


def noisy(inputs: Tensor, strength: float) -> Tensor:
    """Return inputs with noise, the same each time."""
    return inputs + strength * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))


def batches(inputs: Tensor, labels: Tensor) -> Batches:
    """Return full batches."""
    return list(zip(*(torch.split(x, BATCH) for x in (inputs, labels)), strict=True))[: len(inputs) // BATCH]


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Return a convolution with its norm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def trained(
    network: nn.Module, train: Batches, loss: Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor], passes: int
) -> nn.Module:
    """Return a network after so many passes."""
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=passes * len(train))
    for _ in range(passes):
        for number in torch.randperm(len(train)).tolist():
            optimizer.zero_grad()
            loss(network, train[number]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return network.eval()


def outputs_and_labels(model: nn.Module, loader: Loader) -> tuple[Tensor, Tensor]:
    """Return what a model gives for all batches, and their labels."""
    with torch.no_grad():
        pairs = [(model(inputs), labels) for inputs, labels in loader]
    return torch.cat([outputs for outputs, _ in pairs]), torch.cat([labels for _, labels in pairs])
