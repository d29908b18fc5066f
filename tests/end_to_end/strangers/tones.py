"""A classifier of tones: convolutions over time, with norms and learned slopes."""

from __future__ import annotations

import math

import torch
from learned import Batches, batches, briefly, fit
from torch import nn

from autocompress import Task


def signals(count: int, seed: int) -> Batches:
    """Return noisy tones of five heights."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (count,), generator=generator)
    height = 8 + 6 * labels[:, None] + 3 * torch.rand(count, 1, generator=generator)
    waves = torch.sin(2 * math.pi * (height * torch.arange(256) / 256 + torch.rand(count, 1, generator=generator)))
    return batches((waves + 0.6 * torch.randn(waves.shape, generator=generator))[:, None], labels, 32)


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
        layers += [nn.Conv1d(inputs, outputs, 9, stride=2, padding=4), nn.BatchNorm1d(outputs), nn.PReLU(outputs)]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 5))
    parts = [signals(count, seed) for seed, count in enumerate((960, 320, 320))]
    return briefly(fit(net, parts[0], 3), torch.zeros(1, 1, 256), parts)
