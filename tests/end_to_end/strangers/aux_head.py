"""A network with an auxiliary head: two outputs while it is trained, one when it is served."""

from __future__ import annotations

import torch
from learned import classifier
from torch import Tensor, nn
from torch.nn import functional

from autocompress import Task


class Net(nn.Module):
    """Two stages, each with a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU())
        self.aux, self.head = nn.Linear(32, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits, in training with those of the auxiliary head."""
        early = self.first(x)
        logits = self.head(self.second(functional.max_pool2d(early, 2)).mean((2, 3)))
        return (logits, self.aux(early.mean((2, 3)))) if self.training else logits


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropies of all heads that there are."""
    images, labels = batch
    answers = model(images)
    if isinstance(answers, tuple):
        return functional.cross_entropy(answers[0], labels) + 0.3 * functional.cross_entropy(answers[1], labels)
    return functional.cross_entropy(answers, labels)


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    return classifier(Net(), loss=loss)
