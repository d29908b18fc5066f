"""A network that was made sparse by torch.nn.utils.prune; the masks are still on it."""

from __future__ import annotations

import torch
from learned import classifier, digits, fit, tail
from torch import nn
from torch.nn.utils import prune

from autocompress import Task


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    body: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
        body += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    net = nn.Sequential(*body[:3], nn.MaxPool2d(2), *body[3:], *tail(64))
    fit(net, digits()[0], 3)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            prune.l1_unstructured(module, "weight", amount=0.4)
    return classifier(net, 2)
