"""Images are made twice as large by sub-pixel convolutions, and judged in decibels."""

from __future__ import annotations

import torch
from learned import Batches, batches, briefly, fit
from torch import Tensor, nn
from torch.nn import functional

from autocompress import Task


def pictures(count: int, seed: int) -> Batches:
    """Return small images in colour and the large ones that they were made of."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    large = functional.interpolate(coarse, size=24, mode="bicubic", align_corners=False)
    stripes = torch.sin(torch.arange(24) * (0.3 + torch.rand(count, 1, 1, 1, generator=generator)))
    large = (0.8 * large + 0.2 * stripes).clamp(0, 1)
    return batches(functional.avg_pool2d(large, 2), large, 16)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean absolute error."""
    small, large = batch
    return functional.l1_loss(model(small), large)


def psnr(model: nn.Module, loader: Batches) -> float:
    """Return the peak signal-to-noise ratio in decibels."""
    with torch.no_grad():
        errors = [functional.mse_loss(model(small).clamp(0, 1), large) for small, large in loader]
    return float(-10 * torch.stack(errors).mean().log10())


def task() -> Task:
    """Return the network."""
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.PixelShuffle(2), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 3, 3, padding=1)),
    )
    parts = [pictures(count, seed) for seed, count in enumerate((256, 64, 64))]
    known = fit(net, parts[0], 8, loss)
    return briefly(known, torch.zeros(1, 3, 12, 12), parts, loss=loss, metric=psnr, metric_unit="dB")
