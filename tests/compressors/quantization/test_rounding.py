"""Rounding gives what PyTorch's own fake quantization gives."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compressors.quantization.quantizers import weight_scale
from autocompress.compressors.quantization.rounding import rounded

seeds = st.integers(0, 2**31)


def gradient(x: Tensor, outputs: Tensor) -> Tensor:
    """Return the gradient of some numbers where each output weighs another amount."""
    (outputs * torch.arange(outputs.numel()).reshape(outputs.shape)).sum().backward()
    assert x.grad is not None
    found, x.grad = x.grad, None
    return found


@settings(deadline=None)
@given(seeds, st.floats(1e-6, 10), st.sampled_from([(-1, 1), (-7, 7), (-127, 127), (0, 255), (-30, 225)]))
def test_clipped_numbers_are_those_of_pytorch(seed: int, scale: float, bounds: tuple[int, int]) -> None:
    """The numbers and their gradients are the same to the last bit, at the ends of the range too."""
    step = torch.tensor(scale)
    x = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    x = torch.cat((x, torch.tensor([bounds[1], bounds[0] - 0.5]) * step))
    x.requires_grad_()
    ours, theirs = rounded(x, step, bounds), torch.fake_quantize_per_tensor_affine(x, scale, 0, *bounds)
    assert torch.equal(ours, theirs)
    assert torch.equal(gradient(x, ours), gradient(x, theirs))


@settings(deadline=None)
@given(seeds, st.floats(1e-9, 1e3), st.sampled_from([7, 127]))
def test_weights_are_those_of_pytorch(seed: int, size: float, top: int) -> None:
    """With one step a row, which its largest number decides, none is clipped."""
    weight = size * torch.randn(5, 40, generator=torch.Generator().manual_seed(seed))
    weight.requires_grad_()
    scale = weight_scale(weight, top)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    theirs = torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -top, top)
    ours = rounded(weight, scale.unsqueeze(1))
    assert torch.equal(ours, theirs)
    assert torch.equal(gradient(weight, ours), gradient(weight, theirs))


def test_what_is_no_number_stays_none() -> None:
    """A training that diverged is seen by its loss."""
    assert rounded(torch.tensor([float("nan"), 1.0]), torch.tensor(0.5), (-127, 127)).isnan().tolist() == [True, False]
