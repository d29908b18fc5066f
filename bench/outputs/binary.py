"""Whether a digit is odd: one logit, outputs (batch, 1).

autocompress bench/outputs/binary.py --target-latency 200us
"""

from __future__ import annotations

import torch
from drawn import KEPT, Batches, batches, block, digits, noisy, outputs_and_labels, trained
from torch import Tensor, nn

from autocompress.studies.task import Loader, Task


def images(part: str) -> Batches:
    """Return noisy digits, and 1 for odd ones."""
    drawn, classes = digits(part)
    return batches(noisy(drawn, 0.4).unsqueeze(1), (classes % 2).float().unsqueeze(1))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of yes and no."""
    inputs, labels = batch
    return nn.functional.binary_cross_entropy_with_logits(model(inputs), labels)


def metric(model: nn.Module, loader: Loader) -> float:
    """Return the share of right answers."""
    outputs, labels = outputs_and_labels(model, loader)
    return float(((outputs > 0) == (labels > 0.5)).float().mean())


def task() -> Task:
    """Return the trained network with its data, of which a part is left to learn from again."""
    torch.manual_seed(0)
    train, validation, test = (images(part) for part in ("train", "validation", "test"))
    body = nn.Sequential(block(1, 32), block(32, 64), nn.MaxPool2d(2), block(64, 64), nn.AdaptiveAvgPool2d(1))
    net = trained(nn.Sequential(body, nn.Flatten(), nn.Linear(64, 1)), train, loss, 12)
    return Task(net, torch.zeros(1, 1, 8, 8), train[:KEPT], validation, test=test, loss=loss, metric=metric)
