"""Where a digit is, and how much ink it has: numbers of different units, outputs (batch, 3).

autocompress bench/outputs/regression.py --target-latency 500us
"""

from __future__ import annotations

import torch
from drawn import KEPT, Batches, batches, block, canvas, noisy, outputs_and_labels, trained
from torch import Tensor, nn

from autocompress.studies.task import Loader, Task

SIZE = 16


def pictures(part: str, count: int) -> Batches:
    """Return noisy canvases with a digit; its row and column in pixels, and the sum of its pixels."""
    drawn, told = canvas(part, count, SIZE, each=1)
    labels = torch.tensor([[top, left, float(image.sum())] for ((_, top, left, image),) in told])
    return batches(noisy(drawn, 0.4).unsqueeze(1), labels)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean squared error."""
    inputs, labels = batch
    return nn.functional.mse_loss(model(inputs), labels)


def metric(model: nn.Module, loader: Loader) -> float:
    """Return the share of the labels' variance that is explained, a mean over the three numbers."""
    outputs, labels = outputs_and_labels(model, loader)
    return float((1 - (outputs - labels).square().mean(0) / labels.var(0)).mean())


def network() -> nn.Module:
    """Return a network that looks at all places."""
    body = nn.Sequential(block(1, 32), nn.MaxPool2d(2), block(32, 64), nn.MaxPool2d(2), block(64, 64))
    return nn.Sequential(body, nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 3))


def task() -> Task:
    """Return the trained network with its data, of which a part is left to learn from again."""
    torch.manual_seed(0)
    train, validation, test = (pictures(part, n) for part, n in (("train", 1600), ("validation", 320), ("test", 320)))
    net = trained(network(), train, loss, 12)
    return Task(net, torch.zeros(1, 1, SIZE, SIZE), train[:KEPT], validation, test=test, loss=loss, metric=metric)
