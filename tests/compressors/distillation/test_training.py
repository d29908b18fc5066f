"""The learning rate of a training, by what the network has lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compressors.distillation.training import GENTLEST, rate_for

INPUTS = (torch.randn(64, 8, generator=torch.Generator().manual_seed(0)),)


class Scaled(nn.Module):
    """Gives its inputs times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return self.factor * x


@given(st.floats(-3, 3))
def test_the_rate_grows_with_what_is_lost(factor: float) -> None:
    """It is the share of the outputs' variance that has changed, within its limits."""
    expected = min(1.0, max(GENTLEST, (1 - factor) ** 2))
    assert rate_for(Scaled(factor), Scaled(1), [INPUTS]) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("model", [nn.Linear(8, 3), Scaled(float("nan"))], ids=["other shape", "no numbers"])
def test_what_cannot_be_compared_is_trained_at_the_full_rate(model: nn.Module) -> None:
    """Such as a student with outputs of another shape."""
    assert rate_for(model, Scaled(1), [INPUTS]) == 1.0
    assert rate_for(Scaled(1), Scaled(1), []) == 1.0
