"""Rounding that makes up for its own errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autocompress.compressors.quantization.compensated import round_compensated


def case(groups: int, outputs: int, inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, inputs that depend on each other, and a step for each output."""
    torch.manual_seed(groups + inputs)
    weight = torch.randn(groups, outputs, inputs)
    mixed = torch.randn(groups, inputs // 3, inputs) / 3
    rows = torch.randn(groups, 4000, inputs // 3) @ mixed + 0.1 * torch.randn(groups, 4000, inputs)
    return weight, rows, (weight.abs().amax(2, keepdim=True) / 7).expand_as(weight)


@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 20, 48), (1, 8, 300), (12, 2, 9)])
def test_outputs_are_closer_than_with_the_nearest_numbers(groups: int, outputs: int, inputs: int) -> None:
    """Weights land on whole steps, and the error of outputs that were not seen is clearly smaller."""
    weight, rows, step = case(groups, outputs, inputs)
    seen, unseen = rows[:, :3000], rows[:, 3000:]
    found = round_compensated(weight, seen.transpose(1, 2) @ seen / 3000, step, 7)
    torch.testing.assert_close(found / step, (found / step).round(), rtol=0, atol=1e-4)
    assert (found.abs() <= 7.001 * step).all()

    def error(rounded: Tensor) -> float:
        return float((unseen @ (rounded - weight).transpose(1, 2)).square().mean())

    assert error(found) < 0.7 * error((weight / step).round() * step)


def test_steps_and_zeros_stay() -> None:
    """The largest weight of each output, other weights that are to be kept, and zeros are rounded for themselves."""
    weight, rows, step = case(1, 20, 48)
    weight[:, :, ::5] = 0
    kept = torch.zeros_like(weight, dtype=torch.bool)
    kept[:, :, 1::5] = True
    step = (weight.abs().amax(2, keepdim=True) / 7).expand_as(weight)
    found = round_compensated(weight, rows.transpose(1, 2) @ rows / 4000, step, 7, kept)
    nearest = (weight / step).round() * step
    torch.testing.assert_close(found.abs().amax(2), weight.abs().amax(2))
    alone = kept | (weight == 0)
    torch.testing.assert_close(found[alone], nearest[alone])
    assert not torch.allclose(found[~alone], nearest[~alone])


@pytest.mark.parametrize("power", [float("nan"), 0.0])
def test_inputs_that_say_nothing(power: float) -> None:
    """Inputs that are no numbers leave the weight as it is, inputs of zeros round to the nearest."""
    weight, _, step = case(1, 4, 12)
    found = round_compensated(weight, torch.full((1, 12, 12), power), step, 7)
    torch.testing.assert_close(found, weight if power != 0 else (weight / step).round() * step)
