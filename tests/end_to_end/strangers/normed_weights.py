"""Layers whose weights are computed from others: by parametrizations, or by the hooks that were before these."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from learned import classifier, tail
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from autocompress import Task


def normed(norm: Callable[[nn.Module], nn.Module]) -> Task:
    """Return the task of a network whose weights are normed."""
    torch.manual_seed(0)
    *pool, head = tail(64)
    body = [norm(nn.Conv2d(1, 32, 3, padding=1)), nn.ReLU(), nn.MaxPool2d(2)]
    for inputs in (32, 64):
        body += [norm(nn.Conv2d(inputs, 64, 3, padding=1)), nn.ReLU()]
    return classifier(nn.Sequential(*body, *pool, norm(head)), 12)


def task() -> Task:
    """Return a network with parametrizations."""
    return normed(parametrizations.weight_norm)


def hooked() -> Task:
    """Return a network with hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and in many a network
        return normed(weight_norm)
