"""A yes-or-no classifier with one logit, and labels of shape (N, 1)."""

from __future__ import annotations

from dataclasses import replace

import torch
from learned import Batches, batches, briefly, fit
from torch import Tensor, nn
from torch.nn import functional

from autocompress import Task


def rows(count: int, seed: int) -> Batches:
    """Return rows of twelve numbers, and whether they are of the kind."""
    numbers = torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))
    return batches(numbers, (numbers[:, :1] * numbers[:, 1:2] + numbers[:, 2:3] > 0).float(), 32)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the binary cross-entropy."""
    inputs, labels = batch
    return functional.binary_cross_entropy_with_logits(model(inputs), labels)


def per_example(model: nn.Module, loader: Batches) -> Tensor:
    """Return 1 for each right answer."""
    with torch.no_grad():
        return torch.cat([((model(inputs) > 0) == labels.bool()).float()[:, 0] for inputs, labels in loader])


def task() -> Task:
    """Return the network with the default metric, which knows of classes."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 1))
    parts = [rows(count, seed) for seed, count in enumerate((960, 400, 400))]
    return briefly(fit(net, parts[0], 6, loss), torch.zeros(1, 12), parts, loss=loss)


def scored() -> Task:
    """Return the network with a metric of its own."""
    return replace(task(), per_example=per_example)
