"""Weights that several modules share, and modules that a network holds under several names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..errors import InfeasibleError

HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)
"""Where a module of PyTorch has what is called before and after it."""


def tied(model: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that several modules share.

    >>> net = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 4))
    >>> net[1].weight = net[0].weight
    >>> tied(net)
    [['0.weight', '1.weight']]
    """
    names: dict[nn.Parameter, list[str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            names.setdefault(parameter, []).append(name)
    return [several for several in names.values() if len(several) > 1]


def shared_with(model: nn.Module) -> Mapping[str, str]:
    """Map each module that shares a parameter to the name of the other module."""
    found: dict[str, str] = {}
    for names in tied(model):
        owners = [name.rpartition(".")[0] for name in names]
        found = {owner: owners[0] if owner != owners[0] else owners[1] for owner in owners} | found
    return found


def tie(model: nn.Module, together: Sequence[Sequence[str]]) -> None:
    """Tie parameters again, in place.

    Args:
        model: a network that was changed.
        together: names of parameters that were one before; see `tied`.

    Raises:
        InfeasibleError: they are different by now.

    """
    for first, *others in together:
        one = model.get_parameter(first)
        for name in others:
            if not torch.equal(one, model.get_parameter(name)):
                raise InfeasibleError(f"{first} and {name} are one weight, and would be two", rung="build")
            path, _, last = name.rpartition(".")
            setattr(model.get_submodule(path), last, one)


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a module in place, under all of its names, and keep its hooks."""
    old = model.get_submodule(name)
    if old not in set(module.modules()) and module not in set(old.modules()):  # neither holds the other with its own
        for hooks in HOOKS:
            getattr(module, hooks).update(getattr(old, hooks))
    for place, each in list(model.named_modules(remove_duplicate=False)):
        if each is old:
            model.set_submodule(place, module)
