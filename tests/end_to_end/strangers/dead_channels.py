"""A separable network after slimming: a third of the norms' scales are 0, and their shifts are not."""

from __future__ import annotations

import torch
from learned import classifier, tail
from torch import nn

from autocompress import Task


def separable(inputs: int, outputs: int) -> list[nn.Module]:
    """Return a convolution of each channel, and one of all channels at each position."""
    return [
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    stem = [nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    net = nn.Sequential(*stem, *separable(32, 96), *separable(96, 160), *tail(160))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            dead = torch.arange(module.num_features) % 3 == 0
            with torch.no_grad():
                module.weight[dead], module.bias[dead] = 0, 1.5
            module.weight.register_hook(lambda gradient, dead=dead: gradient.masked_fill(dead, 0))
    known = classifier(net, 7)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight._backward_hooks is not None
            module.weight._backward_hooks.clear()  # a copy of the network would not have them
    return known
