"""A network that is fed from streams: iterable data sets that do not know their length, in data loaders."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from learned import PARTS, briefly, examples, fit, tail
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from autocompress import Task


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Digits, one after the other."""

    def __init__(self, begin: int, end: int) -> None:
        images, labels = examples()
        self.images, self.labels = images[begin:end], labels[begin:end]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.images, self.labels, strict=True)


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    body: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64)):
        body += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    parts = [DataLoader(Stream(*ends), 40) for ends in PARTS]
    return briefly(fit(nn.Sequential(*body, *tail(64)), parts[0], 4), torch.zeros(1, 1, 8, 8), parts)
