"""Folds batch normalisation into the layer before it, and re-estimates its statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..studies.networks.copied import copied
from .modules import LAYERS, Inputs, evaluating, grouped, out_channels, run, version
from .tied import put

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


Pair = tuple[str, str]
"""The names of a layer and of the batch norm after it."""


class Folded(nn.Identity):
    """Takes the place of a batch norm that was folded into the layer before it."""


def fold_batch_norm(model: nn.Module, examples: Inputs) -> nn.Module:
    """Return a copy with batch norms folded into the layers that feed them; a `Folded` takes each norm's place.

    Pairs are found by the identity of the tensor that passes between them in one forward pass. Each is folded for
    itself: where that would change the outputs, as something else reads the layer too, its norm stays.
    """
    pairs, expected = _pairs(model, examples), run(model, examples)
    whole = _folded(model, pairs)
    if not pairs or alike(expected, run(whole, examples)):
        return whole
    return _folded(model, [pair for half in _halves(pairs) for pair in _that_fold(model, examples, half, expected)])


def folded(model: nn.Module) -> bool:
    """Return whether a network has no batch norm left: they were folded, or there never were any."""
    modules = list(model.modules())
    return any(isinstance(m, Folded) for m in modules) or not any(isinstance(m, NORMS) for m in modules)


def _pairs(model: nn.Module, examples: Inputs) -> list[Pair]:
    """Return pairs of a layer and a batch norm that are connected to each other alone."""
    names = {module: name for name, module in model.named_modules()}
    made: dict[int, tuple[nn.Module, int]] = {}
    alive: list[Tensor] = []  # keeps every tensor, so that no identity is used twice
    found: dict[Pair, None] = {}

    def leave(module: nn.Module, _: Any, output: Tensor) -> None:
        alive.append(output)
        made[id(output)] = module, version(output)

    def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer, before = made.get(id(inputs[0]), (None, 0))
        mean = module.running_mean
        if layer is None or before != version(inputs[0]) or not isinstance(mean, Tensor):
            return
        if len(mean) == out_channels(layer):
            found[names[layer], names[module]] = None

    hooks = [m.register_forward_hook(leave) for m in model.modules() if isinstance(m, LAYERS)]
    hooks += [m.register_forward_pre_hook(enter) for m in model.modules() if isinstance(m, NORMS)]
    try:
        run(model, examples)
    finally:
        for hook in hooks:
            hook.remove()
    times = Counter(name for pair in found for name in pair)
    return [pair for pair in found if times[pair[0]] == times[pair[1]] == 1]


def _that_fold(model: nn.Module, examples: Inputs, pairs: list[Pair], expected: Tensor) -> list[Pair]:
    """Return the pairs that can be folded without changing the outputs, found by bisection."""
    if not pairs or alike(expected, run(_folded(model, pairs), examples)):
        return pairs
    return [pair for half in _halves(pairs) for pair in _that_fold(model, examples, half, expected)]


def _halves(pairs: list[Pair]) -> Sequence[list[Pair]]:
    middle = len(pairs) // 2
    return (pairs[:middle], pairs[middle:]) if middle else ()


def alike(expected: Tensor, outputs: Tensor) -> bool:
    """Return whether two networks' outputs are the same, except for the last digits."""
    reach = float(expected.abs().max())
    return torch.allclose(expected, outputs, rtol=1e-3, atol=1e-3 * reach + 1e-6, equal_nan=True)


def _folded(model: nn.Module, pairs: Sequence[Pair]) -> nn.Module:
    """Return a copy in evaluation mode with the pairs folded."""
    model = copied(model).eval()
    for layer, norm in pairs:
        _fold(model.get_submodule(layer), model.get_submodule(norm))
        put(model, norm, Folded())
    return model


def _fold(layer: Any, norm: Any) -> None:
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale * norm.weight if norm.weight is not None else scale
        shift = norm.bias if norm.bias is not None else torch.zeros_like(scale)
        bias = layer.bias if layer.bias is not None else torch.zeros_like(scale)
        weight = grouped(layer)
        weight.mul_(scale.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2)))
        layer.bias = nn.Parameter((bias - norm.running_mean) * scale + shift, layer.weight.requires_grad)


def estimate_batch_norm(model: nn.Module, batches: Sequence[Inputs]) -> None:
    """Re-estimate the running mean and variance of all batch norms in place, over all inputs they see."""
    if not batches or not any(map(_has_statistics, model.modules())):
        return
    with estimating_batch_norm(model), torch.no_grad():
        for inputs in [batch for batch in batches if len(batch[0]) > 1] or batches:
            model(*inputs)


@contextmanager
def estimating_batch_norm(model: nn.Module) -> Iterator[None]:
    """Re-estimate the running mean and variance of all batch norms in place, over the batches run inside the context.

    What lies between the batches is part of the variance. Each batch is normalised by its own statistics meanwhile, as
    in training, so batches of one example are left out where there are others. Where a norm sees one value a channel
    it has no variance, and keeps the statistics that it has.
    """
    norms: list[Any] = [m for m in model.modules() if _has_statistics(m)]
    pooled = {norm: _Moments() for norm in norms}
    hooks = [norm.register_forward_hook(pooled[norm].add) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    hooks += [norm.register_forward_pre_hook(_train_if_it_varies) for norm in norms]
    try:
        with evaluating(model):
            for norm in norms:
                norm.momentum = 1.0  # what it has after a batch are that batch's statistics
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            pooled[norm].write(norm)


def _has_statistics(module: Any) -> bool:
    return isinstance(module, NORMS) and module.track_running_stats


def _train_if_it_varies(norm: Any, inputs: Inputs) -> None:
    """Let a norm use a batch's statistics if the batch has more than one value for each channel."""
    norm.train(inputs[0].numel() > len(norm.running_mean))


class _Moments:
    """Mean and variance of a norm's channels over several batches (Chan et al., COMPSTAT 1982)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, norm: Any, inputs: Inputs, _: Tensor) -> None:
        """Add the statistics of a norm's last batch, if the norm computed them."""
        if not norm.training:
            return
        count = inputs[0].numel() // len(norm.running_mean)
        step = norm.running_mean - self.mean
        total = self.count + count
        self.squares = self.squares + norm.running_var * (count - 1) + step.square() * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    def write(self, norm: Any) -> None:
        """Write the statistics of all batches to a norm; a norm that saw no batch keeps its own."""
        if self.count:
            norm.running_mean.copy_(self.mean)
            norm.running_var.copy_(self.squares / max(1, self.count - 1))
