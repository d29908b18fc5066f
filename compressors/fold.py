"""Folds batch normalisation into the layer before it, and estimates its statistics anew."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .graph import LAYERS, Inputs, run

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def fold_batch_norm(model: nn.Module, examples: Inputs) -> nn.Module:
    """Return a copy whose batch norms are part of the layers that feed them.

    Pairs are found by the identity of the tensor that passes between them in one forward pass.
    A network in which folding would change the outputs (a layer with a second reader) is returned unfolded.
    """
    folded = copy.deepcopy(model).eval()
    parents = {child: (parent, name) for parent in folded.modules() for name, child in parent.named_children()}
    for layer, norm in _pairs(folded, examples):
        _fold(layer, norm)
        parent, name = parents[norm]
        setattr(parent, name, nn.Identity())
    before, after = run(model, examples), run(folded, examples)
    same = torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max()) + 1e-6)
    return folded if same else copy.deepcopy(model).eval()


def _pairs(model: nn.Module, examples: Inputs) -> list[tuple[nn.Module, nn.Module]]:
    made: dict[int, nn.Module] = {}
    alive: list[Tensor] = []  # keeps every tensor, so that no identity is used twice
    pairs: list[tuple[nn.Module, nn.Module]] = []

    def leave(module: nn.Module, _: Any, output: Tensor) -> None:
        alive.append(output)
        made[id(output)] = module

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer, mean = made.get(id(inputs[0])), module.running_mean
        if layer is not None and isinstance(mean, Tensor) and len(mean) == len(cast(Tensor, layer.weight)):
            pairs.append((layer, module))

    hooks = [m.register_forward_hook(leave) for m in model.modules() if isinstance(m, LAYERS)]
    hooks += [m.register_forward_pre_hook(enter) for m in model.modules() if isinstance(m, NORMS)]
    run(model, examples)
    for hook in hooks:
        hook.remove()
    return pairs


def _fold(layer: Any, norm: Any) -> None:
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale * norm.weight if norm.weight is not None else scale
        shift = norm.bias if norm.bias is not None else torch.zeros_like(scale)
        bias = layer.bias if layer.bias is not None else torch.zeros_like(scale)
        layer.weight.mul_(scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias = nn.Parameter((bias - norm.running_mean) * scale + shift)


def estimate_batch_norm(model: nn.Module, batches: Sequence[Inputs]) -> None:
    """Estimate the running statistics of all batch norms anew, in place, as plain averages over batches."""
    norms = [m for m in model.modules() if isinstance(m, NORMS)]
    if not norms or not batches:
        return
    momenta = [norm.momentum for norm in norms]
    training = model.training
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for inputs in batches:
            model(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)
