"""A study of a network that predicts images, with a metric in decibels.

Train the network, then compress it::

    python denoiser.py
    autocompress denoiser.py --target-latency 20us --min-accuracy -0.3dB --trials 12
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from autocompress import Task

WEIGHTS = Path(__file__).with_name("denoiser.pth")
Batch = tuple[Tensor, Tensor]


def batches() -> list[Batch]:
    """Return noisy digits with the clean ones, in batches."""
    clean = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return list(zip(noisy.split(32), clean.split(32), strict=True))


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean squared error of a batch."""
    noisy, clean = batch
    return functional.mse_loss(model(noisy), clean)


def per_example(model: nn.Module, loader: Iterable[Batch]) -> Tensor:
    """Return the peak signal-to-noise ratio of each image; the metric is their mean, and larger is better."""
    with torch.no_grad():
        errors = torch.cat([(model(noisy) - clean).square().mean((1, 2, 3)) for noisy, clean in loader])
    return -10 * errors.clamp(min=1e-10).log10()


def network() -> nn.Module:
    """Return the untrained network."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        nn.Conv2d(32, 1, 3, padding=1),
    )


def task() -> Task:
    """Return what autocompress needs, with the loss, the scores and their unit."""
    net = network()
    net.load_state_dict(torch.load(WEIGHTS))
    data = batches()
    train, validation, test = data[:40], data[40:48], data[48:]
    example = validation[0][0][:1]
    return Task(net, example, train, validation, test=test, loss=loss, per_example=per_example, metric_unit="dB")


def train(epochs: int = 5) -> None:
    """Train the network and keep its weights."""
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(epochs):
        for batch in batches()[:40]:
            optimizer.zero_grad()
            loss(net, batch).backward()
            optimizer.step()
    torch.save(net.state_dict(), WEIGHTS)


if __name__ == "__main__":
    train()
