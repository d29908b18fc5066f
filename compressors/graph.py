"""Runs a network as it is, counts what its layers do, and finds them by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InfeasibleError
from . import recurrent

LAYERS = (nn.Conv2d, nn.Linear)
"""Module types that count as layers."""

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a layer holds and does."""

    kind: str
    params: int
    macs: int


def count(model: nn.Module, examples: Inputs) -> dict[str, Cost]:
    """Return parameters and multiply-accumulates of one example for each layer, in order of execution."""
    counted = (*LAYERS, *recurrent.RECURRENT)
    names: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, counted)}
    costs: dict[str, Cost] = {}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        name = names[module]
        before = costs[name].macs if name in costs else 0
        kind, macs = _work(module, inputs[0], output)
        params = sum(p.numel() for p in module.parameters(recurse=False))
        costs[name] = Cost(kind=kind, params=params, macs=before + macs)

    hooks = [module.register_forward_hook(record) for module in names]
    run(model, examples)
    for hook in hooks:
        hook.remove()
    return costs


def _work(module: nn.Module, x: Any, output: Any) -> tuple[str, int]:
    """Return a layer's kind, and the multiply-accumulates of one example in a call."""
    if isinstance(module, nn.RNNBase):
        return "recurrent", recurrent.macs(module, x)
    weight = module.weight
    assert isinstance(weight, Tensor)
    kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
    return kind, output[0].numel() // weight.shape[0] * weight.numel()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode for a while; each module's own mode is put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def run(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the outputs in evaluation mode without gradients."""
    with evaluating(model), torch.no_grad():
        outputs = model(*inputs)
    assert isinstance(outputs, Tensor)
    return outputs


def always_called(module: nn.Module) -> None:
    """Let PyTorch's encoder layers call a module in a layer's place; they compute without their modules otherwise."""
    module.register_forward_pre_hook(_as_they_are)


def _as_they_are(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Change nothing before a module computes."""


def parts(model: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Return a layer with its name, or, where it was factorised, the layers that take its place with theirs.

    Raises:
        InfeasibleError: the network has no such layer.

    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise InfeasibleError(f"the network has no layer {name!r}", rung="build") from None
    if isinstance(module, nn.Sequential):
        return [(f"{name}.{child}", layer) for child, layer in module.named_children()]
    return [(name, module)]


def multiplies(module: nn.Module) -> bool:
    """Whether a module does nothing but what a layer of its type does: it has no forward of its own."""
    return type(module).forward in [layer.forward for layer in LAYERS]
