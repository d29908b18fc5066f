"""A U-Net with transposed convolutions, of images with void pixels that its loss leaves out."""

from __future__ import annotations

import torch
from learned import Batches, batches, briefly, fit
from torch import Tensor, nn
from torch.nn import functional

from autocompress import Task

VOID, SIZE = 255, 16


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Return two convolutions with norms."""
    layers: list[nn.Module] = []
    for given in (inputs, outputs):
        layers += [nn.Conv2d(given, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Down twice, and up twice with what was seen on the way."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = double(1, width), double(width, 2 * width), double(2 * width, 4 * width)
        self.up2, self.dec2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), double(4 * width, 2 * width)
        self.up1, self.dec1 = nn.ConvTranspose2d(2 * width, width, 2, 2), double(2 * width, width)
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits for each pixel."""
        fine = self.down1(x)
        middle = self.down2(functional.max_pool2d(fine, 2))
        coarse = self.bottom(functional.max_pool2d(middle, 2))
        middle = self.dec2(torch.cat([self.up2(coarse), middle], 1))
        return self.out(self.dec1(torch.cat([self.up1(middle), fine], 1)))


def scenes(count: int, seed: int) -> Batches:
    """Return noisy images with a square (1) and a disc (2) on background (0), each in a ring of void pixels."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    images, labels = torch.zeros(count, 1, SIZE, SIZE), torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for image, label in zip(images[:, 0], labels, strict=True):
        for kind, order in ((1, float("inf")), (2, 2)):
            y, x = torch.randint(3, SIZE - 3, (2,), generator=generator).tolist()
            away = torch.stack([rows - y, columns - x]).float().norm(p=order, dim=0)
            label[away <= 4] = VOID
            label[away <= 3], image[away <= 3] = kind, kind / 2
    return batches(images + 0.2 * torch.randn(images.shape, generator=generator), labels, 16)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of the pixels that are known."""
    images, labels = batch
    return functional.cross_entropy(model(images), labels, ignore_index=VOID)


def iou(model: nn.Module, loader: Batches) -> float:
    """Return the mean intersection over union of the three classes, without void pixels."""
    both, either = torch.zeros(3), torch.zeros(3)
    with torch.no_grad():
        for images, labels in loader:
            known = labels != VOID
            for kind in range(3):
                told, true = (model(images).argmax(1) == kind) & known, labels == kind
                both[kind] += (told & true).sum()
                either[kind] += (told | true).sum()
    return float((both / either).mean())


def task() -> Task:
    """Return the network with the default metric, which knows of no void pixels."""
    torch.manual_seed(0)
    parts = [scenes(count, seed) for seed, count in enumerate((256, 96, 96))]
    return briefly(fit(UNet(), parts[0], 4, loss), torch.zeros(1, 1, SIZE, SIZE), parts, loss=loss)


def with_iou() -> Task:
    """Return the network with a metric of its own."""
    known = task()
    return briefly(
        known.model, known.example_inputs, (known.train, known.validation, known.test), loss=loss, metric=iou
    )
