"""Five usual stages, and one whose norm comes after its activation."""

from __future__ import annotations

import torch
from learned import classifier, tail
from torch import nn

from autocompress import Task

WIDTHS = ((1, 32), (32, 64), (64, 64), (64, 96))


def built(*, inplace: bool) -> Task:
    """Return the network, its activations in place or not."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(WIDTHS):
        after = [nn.BatchNorm2d(outputs), nn.ReLU(inplace=inplace)]
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *(after[::-1] if number == 2 else after)]
        layers += [nn.MaxPool2d(2)] if number == 0 else []
    return classifier(nn.Sequential(*layers, *tail(96)), 4)


def task() -> Task:
    """Return the network with activations in place."""
    return built(inplace=True)


def not_in_place() -> Task:
    """Return the network with activations that give another tensor."""
    return built(inplace=False)
