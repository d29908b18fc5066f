"""Keeps frozen parameters frozen in every network derived from the original."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn


def freeze_as(model: nn.Module, original: nn.Module) -> None:
    """Freeze, in place, what was derived from parameters without gradients in the original; train everything else.

    A parameter goes by the one of its name; one that has no such name, as the factors and steps of a layer, by its
    layer's weight. An original that is frozen as a whole was made ready to be served: all of it is trained.

    Args:
        model: what techniques made of the original.
        original: the network of the task.

    """
    wanted = {name: p.requires_grad for name, p in original.named_parameters(remove_duplicate=False)}
    some = any(wanted.values())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(not some or _trained(name, wanted))


def _trained(name: str, wanted: Mapping[str, bool]) -> bool:
    """Return whether a parameter is trained, by the names of the original's.

    >>> wanted = {"stem.weight": False, "stem.bias": True, "head.weight": True}
    >>> [name for name in ("stem.weight", "stem.layer.bias", "stem.0.weight", "head.1.bias") if _trained(name, wanted)]
    ['stem.layer.bias', 'head.1.bias']
    """
    path, _, last = name.rpartition(".")
    while True:
        for of in (last, "weight"):
            known = wanted.get(f"{path}.{of}" if path else of)
            if known is not None:
                return known
        if not path:
            return True
        path = path.rpartition(".")[0]
