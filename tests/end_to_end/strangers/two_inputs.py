"""An image and a row of numbers go in; the data loader's own collation gives [[images, rows], labels]."""

from __future__ import annotations

from typing import Any

import torch
from learned import briefly, fit
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from autocompress import Task


class Both(Dataset[tuple[tuple[Tensor, Tensor], Tensor]]):
    """Images, rows, and labels that need both."""

    def __init__(self, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randn(count, 1, 8, 8, generator=generator)
        self.rows = torch.randn(count, 5, generator=generator)
        self.labels = (8 * self.images.mean((1, 2, 3)) + self.rows[:, 0] > 0).long()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        return (self.images[index], self.rows[index]), self.labels[index]


class Net(nn.Module):
    """One part for each input, and a head for both."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
        self.read = nn.Sequential(nn.Linear(5, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, image: Tensor, row: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(torch.cat([self.see(image).mean((2, 3)), self.read(row)], 1))


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy."""
    inputs, labels = batch
    return nn.functional.cross_entropy(model(*inputs), labels)


def metric(model: nn.Module, loader: Any) -> float:
    """Return the share of right answers."""
    with torch.no_grad():
        return float(torch.cat([(model(*inputs).argmax(1) == labels).float() for inputs, labels in loader]).mean())


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    parts = [DataLoader(Both(count, seed), 32) for seed, count in enumerate((640, 400, 400))]
    net = fit(Net(), parts[0], 4, loss)
    return briefly(net, (torch.zeros(1, 1, 8, 8), torch.zeros(1, 5)), parts, loss=loss, metric=metric)
