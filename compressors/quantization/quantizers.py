"""Modules that round weights and activations, and pass gradients straight through."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from . import rounding
from .calibration import LEAST, MAX, Grid, Sides, pair_sums
from .lsq import LearnedStep, round_learned


class WeightQuantizer(nn.Module):
    """Rounds a weight to ``bits``; its scales follow the weight during training unless they are learned.

    Args:
        bits: of a weight.
        block: how many weights of an output channel share a scale; None where all do.
        axis: along which its output channels lie.
        narrow: whether pairs of weights must be small; see `pair_scale`.
    """

    def __init__(self, bits: int, block: int | None = None, axis: int = 0, *, narrow: bool = False) -> None:
        super().__init__()
        self.axis = axis
        self.narrow = narrow
        self.top: int = 2 ** (bits - 1) - 1
        self.block = block
        self.learned: LearnedStep | None = None

    def forward(self, weight: Tensor, least: Tensor | None = None) -> Tensor:
        """Round the weight with steps of at least a given size; gradients pass straight through."""
        rows = self._rows(weight)
        scale = self._steps(weight, least)
        if self.learned is not None:
            rounded = round_learned(rows, scale.unsqueeze(1), (-self.top, self.top), rows.shape[1])
        else:
            rounded = rounding.rounded(rows, scale.unsqueeze(1))
        return rounded.reshape(weight.transpose(0, self.axis).shape).transpose(0, self.axis)

    def learn(self, weight: Tensor) -> None:
        """Train the scales from now on, starting from those of a weight."""
        self.learned = LearnedStep(self._steps(weight, None))

    def scale(self, weight: Tensor, least: Tensor | None = None) -> Tensor:
        """Return the steps of a weight, of shape (out,) or (out, blocks), each at least the minimum."""
        steps = self._steps(weight, least).detach()
        return steps if self.block is None else steps.reshape(len(weight), -1)

    def _steps(self, weight: Tensor, least: Tensor | None) -> Tensor:
        steps = weight_scale(self._rows(weight), self.top) if self.learned is None else self.learned()
        for other in (least, pair_scale(weight.transpose(0, self.axis), self.top) if self.narrow else None):
            steps = steps if other is None else torch.maximum(steps, other)
        return steps

    def _rows(self, weight: Tensor) -> Tensor:
        """Return a weight with one row for each scale."""
        return weight.transpose(0, self.axis).flatten(1) if self.block is None else weight.reshape(-1, self.block)


def weight_scale(weight: Tensor, top: int = 127) -> Tensor:
    """Return one scale for each output channel of a weight of shape (out, …), so that its largest value maps to top."""
    return weight.detach().abs().amax(tuple(range(1, weight.dim()))).clamp_min(LEAST) / top


def pair_scale(weight: Tensor, top: int = 127) -> Tensor:
    """Return for each output channel of a weight of shape (out, in, …) the step in which no pair exceeds ``top``.

    A pair are two weights whose products some kernels add in 16 bits; see `calibration.pair_sums`.
    """
    sums = pair_sums(weight.detach().movedim(1, -1))
    return sums.abs().amax(1).clamp_min(LEAST) / top if sums.shape[1] else weight.new_zeros(len(weight))


class ActivationQuantizer(nn.Module):
    """Rounds a layer's input to 8 bits over its calibrated range; one scale for the tensor.

    Args:
        method: finds the range; one of `calibration.METHODS`.
        asymmetric: whether the range may have any zero point.
    """

    ends: Tensor

    def __init__(self, method: str = MAX, *, asymmetric: bool = False) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.calibrating = True
        self.examples = 1
        self.method = method
        self.seen: Sides | None = None if method == MAX else Sides(method, asymmetric=asymmetric)
        self.register_buffer("ends", torch.zeros(2))
        self.learned: LearnedStep | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the rounded input; while calibrating, the input itself."""
        if self.calibrating:
            if self.seen is None:
                self.widen(*x.detach().aminmax())
            else:
                self.seen.add(x.detach().cpu().numpy(), self.examples)
            return x
        grid = self.grid
        if self.learned is not None:
            return round_learned(x, self.learned(), (grid.least, grid.most), x[0].numel())
        return rounding.rounded(x, torch.tensor(grid.step, device=x.device), (grid.least, grid.most))

    def calibrated(self) -> None:
        """Round from now on, over the range seen so far."""
        if self.seen is not None:
            self.widen(*self.seen.ends)
        self.calibrating, self.seen = False, None

    def widen(self, low: Tensor | float, high: Tensor | float) -> None:
        """Let the range reach from a least to a largest number at least."""
        self.ends.copy_(torch.stack((self.ends[0].clamp_max(low), self.ends[1].clamp_min(high))))

    def learn(self) -> None:
        """Train the step from now on; the zero point stays."""
        self.learned = LearnedStep(torch.tensor(self.grid.step))

    @property
    def grid(self) -> Grid:
        """The numbers that it rounds to."""
        grid = Grid.over(*self.ends.tolist(), asymmetric=self.asymmetric)
        return grid if self.learned is None else replace(grid, step=float(self.learned().item()))
