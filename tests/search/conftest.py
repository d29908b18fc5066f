"""A small network that is exported, served and trained in a moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from autocompress.studies.task import Task

MakeTask = Callable[..., Task]


@pytest.fixture
def make_task(one_thread: None) -> MakeTask:
    """Return a function that makes a task of images in three classes: the same each time for the same seed."""

    def make(width: int = 16, *, seed: int = 0, **more: object) -> Task:
        torch.manual_seed(seed)
        images = [(torch.randn(16, 1, 8, 8), torch.arange(16) % 3) for _ in range(3)]
        return Task(network(width), images[0][0][:1], images, images, **more)  # type: ignore[arg-type]

    return make


def network(width: int) -> nn.Module:
    """Return two convolutions and a head."""
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 3)),
    ).eval()
