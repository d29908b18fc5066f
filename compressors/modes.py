"""Networks that differ in training mode: heads, outputs and branches that exist only there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils import _pytree

from .modules import Inputs, evaluating

Shapes = tuple[object, ...]


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Put a network into training mode inside the context; statistics and random states are restored afterwards.

    Norms keep to their statistics, so that one example is enough.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with evaluating(model), torch.random.fork_rng(devices=[]):
        for module in model.modules():
            module.training = not isinstance(module, _NormBase)
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


def in_all_modes(model: nn.Module, inputs: Inputs) -> Any:
    """Return the outputs in evaluation mode, plus those in training mode if more layers run there."""
    with evaluating(model):
        outputs, served = _calls(model, inputs)
    try:
        with training(model):
            others, trained = _calls(model, inputs)
    except Exception:  # a user's forward may want more of a batch than a network is served with
        return outputs
    both = (*_leaves(outputs), *_leaves(others))
    return [leaf for leaf in both if isinstance(leaf, Tensor)] if trained - served else outputs


def only_in_training(model: nn.Module, inputs: Inputs) -> set[nn.Module]:
    """Return the modules that run in training mode but not in evaluation mode."""
    with evaluating(model), torch.no_grad():
        _, served = _calls(model, inputs)
    try:
        with training(model), torch.no_grad():
            return _calls(model, inputs)[1] - served
    except Exception:  # a user's forward may want more of a batch than a network is served with
        return set()


def shapes_in_training(model: nn.Module, inputs: Inputs) -> Shapes:
    """Return the shapes of all tensors in the outputs in training mode, and the types of everything else."""
    with training(model), torch.no_grad():
        leaves = list(_leaves(model(*inputs)))
    return tuple(tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf) for leaf in leaves)


def _leaves(outputs: Any) -> Iterator[Any]:
    """Yield the leaves of nested containers and data classes."""
    for leaf in _pytree.tree_leaves(outputs):
        if is_dataclass(leaf) and not isinstance(leaf, type):
            yield from _leaves([getattr(leaf, field.name) for field in fields(leaf)])
        else:
            yield leaf


def _calls(model: nn.Module, inputs: Inputs) -> tuple[Any, set[nn.Module]]:
    """Return the outputs and the modules that ran."""
    ran: set[nn.Module] = set()
    hooks = [m.register_forward_hook(lambda module, _, __: ran.add(module)) for m in model.modules()]
    try:
        return model(*inputs), ran
    finally:
        for hook in hooks:
            hook.remove()
