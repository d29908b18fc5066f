"""Rows of a table in batches of 32, the last of which holds one; the network has batch norms."""

from __future__ import annotations

import torch
from learned import briefly, fit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autocompress import Task


def rows(count: int, seed: int) -> TensorDataset:
    """Return rows of twenty numbers and the class of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, 20, generator=torch.Generator().manual_seed(77))
    numbers = torch.randn(count, 20, generator=generator)
    return TensorDataset(numbers, (numbers @ centres.T + 0.3 * torch.randn(count, 4, generator=generator)).argmax(1))


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (20, 96):
        layers += [nn.Linear(inputs, 96), nn.BatchNorm1d(96), nn.ReLU()]
    net = fit(nn.Sequential(*layers, nn.Linear(96, 4)), DataLoader(rows(768, 0), 32, shuffle=True), 8)
    parts = [DataLoader(rows(count, seed), 32, shuffle=seed == 0) for seed, count in enumerate((769, 400, 400))]
    return briefly(net, torch.zeros(1, 20), parts)
