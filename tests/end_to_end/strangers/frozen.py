"""A trained network that was frozen to be served: no parameter wants a gradient."""

from __future__ import annotations

import torch
from learned import classifier, tail
from torch import nn

from autocompress import Task


def frozen(*, norms: bool) -> Task:
    """Return the network, with batch norms or without."""
    torch.manual_seed(0)
    body: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
        body += [nn.Conv2d(inputs, outputs, 3, padding=1), *([nn.BatchNorm2d(outputs)] if norms else []), nn.ReLU()]
    known = classifier(nn.Sequential(*body, *tail(64)), 5 if norms else 12)
    known.model.requires_grad_(False)
    return known


def task() -> Task:
    """Return the network with norms."""
    return frozen(norms=True)


def without_norms() -> Task:
    """Return the network without norms."""
    return frozen(norms=False)
