"""A network in what others have made of it: TorchScript, an exported program, compiled, for several devices."""

from __future__ import annotations

from dataclasses import replace

import torch
from learned import classifier, tail
from torch import nn
from torch.export import Dim

from autocompress import Task


def bare() -> Task:
    """Return the network itself."""
    torch.manual_seed(0)
    body: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64)):
        body += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
    return classifier(nn.Sequential(*body, *tail(64)), 15)


def scripted() -> Task:
    """Return a TorchScript program."""
    known = bare()
    return replace(known, model=torch.jit.script(known.model))


def exported() -> Task:
    """Return an exported program, as a module."""
    known = bare()
    images = torch.zeros(2, 1, 8, 8)
    program = torch.export.export(known.model, (images,), dynamic_shapes=({0: Dim("n")},))
    return replace(known, model=program.module())


def compiled() -> Task:
    """Return a compiled network."""
    known = bare()
    return replace(known, model=torch.compile(known.model))


def task() -> Task:
    """Return a network that is copied to several devices."""
    known = bare()
    return replace(known, model=nn.DataParallel(known.model))
