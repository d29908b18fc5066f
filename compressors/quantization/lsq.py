"""Quantizer steps that are trained with the network (LSQ: Esser et al., ICLR 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEAST = 2.0**-10
"""The least share of where it began that a step may become, so that it stays positive."""


class LearnedStep(nn.Module):
    """Positive trained steps, stored as a factor of their initial values.

    A factor is near 1 whatever a network's numbers are, and so are the learning rates that are relative to a
    parameter's size.
    """

    first: Tensor

    def __init__(self, first: Tensor) -> None:
        super().__init__()
        self.register_buffer("first", first.detach().clone())
        self.factor = nn.Parameter(torch.ones_like(first))

    def forward(self) -> Tensor:
        """Return the steps in their initial shape."""
        return self.first * self.factor.clamp_min(LEAST)


def round_learned(x: Tensor, step: Tensor, bounds: tuple[int, int], count: int) -> Tensor:
    """Round numbers to whole multiples of a step; steps and numbers both get gradients.

    With v = x / step, the gradient of the step is round(v) − v for numbers inside of the range and the nearer bound
    beyond it (equation 3 of the paper), scaled by 1 / √(count · largest bound) (section 2.2).

    Args:
        x: the numbers.
        step: broadcasts to them.
        bounds: the least and the largest multiple.
        count: how many numbers of one example, or how many weights, share a step.
    """
    scale = 1 / math.sqrt(max(count, 1) * max(map(abs, bounds)))
    step = step.detach() + (step - step.detach()) * scale
    scaled = (x / step).clamp(*bounds)
    return (scaled + (scaled.round() - scaled).detach()) * step
