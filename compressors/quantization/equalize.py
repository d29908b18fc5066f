"""Equalisation: the channels of a tensor between layers are scaled so that one grid suits all of them.

What makes a channel is multiplied by a positive factor, and what reads it is divided by it (cross-layer equalisation:
Nagel et al., ICCV 2019, section 4.1; after a norm: SmoothQuant, Xiao et al., ICML 2023). In INT8 each output channel
has a scale of its own, so that factors cost the makers nothing, nor a depthwise reader; a model of the noise of
rounding says which factors suit the other readers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from ..batch_norm import alike
from ..modules import Inputs, evaluating, grouped, run
from ..supplies import first_examples
from ..technique import Supplies
from .joints import NORMS, Joint, channel_axis, joints

EXAMPLES = 64
"""Examples that the reach of channels is taken from."""

LIMIT = 64.0
"""The largest factor of a channel, and the inverse of the smallest."""

TINY = 1e-30

EXPONENTS = tuple(product((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5)))
"""Of a channel's reach and of its readers' weights: those that are tried."""

Chosen = list[tuple[Joint, Tensor]]
"""Joints with the factors of their channels."""


def equalize(model: nn.Module, names: Iterable[str], supplies: Supplies) -> int:
    """Scale channels between layers in place; return for how many joints.

    A joint whose factors would change the network's outputs keeps its scales.

    Args:
        model: in float, with batch norms folded.
        names: of the layers that are to compute in INT8.
        supplies: give its inputs; the reach of channels is taken from a part of those for calibration.

    """
    examples = supplies.examples
    found = joints(model, names, examples)
    if not found:
        return 0
    seen = _seen(model, found, first_examples(supplies.calibration, EXAMPLES))
    chosen = [(joint, _factors(model, joint, seen)) for joint in found]
    chosen = [(joint, factors) for joint, factors in chosen if (factors != 1).any()]
    return _apply_all(model, chosen, examples, run(model, examples))


def _apply_all(model: nn.Module, chosen: Chosen, examples: Inputs, expected: Tensor) -> int:
    """Apply factors where the outputs stay what they are, found by bisection."""
    if not chosen:
        return 0
    for joint, factors in chosen:
        _apply(model, joint, factors)
    if alike(expected, run(model, examples)):
        return len(chosen)
    for joint, factors in chosen:
        _apply(model, joint, 1 / factors)
    middle = len(chosen) // 2
    halves = (chosen[:middle], chosen[middle:]) if middle else ()
    return sum(_apply_all(model, half, examples, expected) for half in halves)


def _apply(model: nn.Module, joint: Joint, factors: Tensor) -> None:
    with torch.no_grad():
        for name in joint.makers:
            maker = model.get_submodule(name)
            weight: Tensor = maker.weight if isinstance(maker, NORMS) else grouped(maker)
            weight.mul_(factors if weight.dim() == 1 else factors.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2)))
            bias = getattr(maker, "bias", None)
            if bias is not None:
                bias.mul_(factors)
        for name in joint.readers:
            weight = grouped(model.get_submodule(name))
            weight.div_(_of_inputs(factors, weight))


def _of_inputs(factors: Tensor, weight: Tensor) -> Tensor:
    """Return factors so that they broadcast to the inputs of a weight (groups, out / groups, in / groups, …)."""
    return factors.reshape(len(weight), 1, -1, *[1] * (weight.dim() - 3))


@dataclass
class _Seen:
    """A tensor over the calibration data, by channel: its smallest and largest value, and its mean square."""

    low: Tensor
    high: Tensor
    squares: Tensor
    batches: int = 1

    def add(self, other: _Seen) -> None:
        """Add another batch."""
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        self.squares = (self.squares * self.batches + other.squares) / (self.batches + 1)
        self.batches += 1

    @property
    def reach(self) -> Tensor:
        """The largest magnitude."""
        return torch.maximum(self.high, -self.low)


def _seen(model: nn.Module, found: Sequence[Joint], calibration: Sequence[Inputs]) -> dict[str, _Seen]:
    """Return what readers read, and what makers make whose channels are cut off, by name."""
    seen: dict[str, _Seen] = {}

    def add(key: str, module: nn.Module, x: Tensor) -> None:
        rows = x.movedim(channel_axis(module, x), -1).flatten(0, -2)
        new = _Seen(rows.amin(0), rows.amax(0), rows.square().mean(0))
        if seen.setdefault(key, new) is not new:
            seen[key].add(new)

    hooks = []
    for joint in found:
        for name in joint.readers:
            reads = lambda m, inputs, key=f"{name} reads": add(key, m, inputs[0])  # noqa: E731
            hooks.append(model.get_submodule(name).register_forward_pre_hook(reads))
        for name in joint.makers if math.isfinite(joint.cap) else ():
            makes = lambda m, _, output, key=f"{name} makes": add(key, m, output)  # noqa: E731
            hooks.append(model.get_submodule(name).register_forward_hook(makes))
    with evaluating(model), torch.no_grad():
        for inputs in calibration:
            model(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


def _factors(model: nn.Module, joint: Joint, seen: Mapping[str, _Seen]) -> Tensor:
    """Return the factors of a joint's channels with the least noise predicted; ones where none are better."""
    readers = [(_largest(grouped(model.get_submodule(n)).detach()), seen[f"{n} reads"]) for n in joint.readers]
    reach = torch.stack([it.reach for _, it in readers]).amax(0)
    weights = torch.stack([weight.largest.amax(1).flatten() for weight, _ in readers]).amax(0)
    used = (reach > 0) & (weights > 0)
    highest = torch.full_like(reach, LIMIT)
    if math.isfinite(joint.cap):
        high = torch.stack([seen[f"{name} makes"].high for name in joint.makers]).amax(0)
        used &= high < joint.cap
        highest = torch.minimum(highest, joint.cap / high.clamp_min(joint.cap / LIMIT))
    best = torch.ones_like(reach)
    if not used.any():
        return best
    before = [_noise(*it, best).clamp_min(TINY) for it in readers]
    least = float(len(readers))
    for alpha, beta in EXPONENTS:
        factors = (reach.max() / reach).pow(alpha) * (weights / weights[used].log().mean().exp()).pow(beta)
        factors = torch.where(used, torch.minimum(factors.clamp_min(1 / LIMIT), highest), 1.0)
        noise = sum(
            float(_noise(*reader, factors) / one.clamp_min(1e-30)) for reader, one in zip(readers, before, strict=True)
        )
        if noise < least:
            best, least = factors, noise
    return best


@dataclass
class _Weight:
    """A reader's weight without its kernel's places: the largest magnitudes, and the sums of squares."""

    largest: Tensor
    squares: Tensor
    places: int


def _largest(weight: Tensor) -> _Weight:
    flat = weight.reshape(*weight.shape[:3], -1)
    return _Weight(flat.abs().amax(3), flat.square().sum((1, 3)).flatten(), flat.shape[3])


def _noise(weight: _Weight, seen: _Seen, factors: Tensor) -> Tensor:
    """Return the power of what rounding adds to a reader's outputs, summed over them, up to a common factor.

    Rounding adds noise of a twelfth of a step's square to each number that is rounded, apart from all others.
    """
    span = (seen.high * factors).max().clamp_min(0) - (seen.low * factors).min().clamp_max(0)
    inputs = (span / 255).square() * (weight.squares / factors.square()).sum()
    groups, _, each = weight.largest.shape
    shaped = factors.reshape(groups, 1, each)
    steps = (weight.largest / shaped).amax(2) / 127
    power = (seen.squares * factors.square()).reshape(groups, each).sum(1)
    return inputs + weight.places * (steps.square().sum(1) * power).sum()
