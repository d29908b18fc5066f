"""Small data that several tests of compressors train on, or take gradients of."""

from __future__ import annotations

import torch
from torch import Tensor

from autocompress.compressors.technique import Supplies


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Return images whose class is the half in which they are bright."""
    labels = torch.randint(0, 2, (count, 16), generator=torch.Generator().manual_seed(0))
    images = torch.randn(count, 16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images[..., :4] += 1.5 * labels[:, :, None, None, None]
    images[..., 4:] += 1.5 * (1 - labels)[:, :, None, None, None]
    return list(zip(images, labels, strict=True))


def supplied(examples: tuple[Tensor, ...], classes: int) -> Supplies:
    """Return two batches of noise."""
    generator = torch.Generator().manual_seed(1)
    data = [(torch.randn(8, *examples[0].shape[1:], generator=generator), torch.arange(8) % classes) for _ in range(2)]
    return Supplies(examples=examples, calibration=(), batches=data)
