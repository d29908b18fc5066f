"""Which pixels belong to which digit: outputs (batch, classes, height, width), and void pixels at the edges.

autocompress bench/outputs/segmentation.py --target-latency 500us
"""

from __future__ import annotations

import torch
from drawn import KEPT, Batches, batches, block, canvas, noisy, outputs_and_labels, trained
from torch import Tensor, nn

from autocompress.studies.task import Loader, Task

SIZE, VOID = 12, 255


def pictures(part: str, count: int) -> Batches:
    """Return noisy canvases with a digit: strong pixels have a digit's class, weak ones are void."""
    drawn, told = canvas(part, count, SIZE, each=1)
    labels = torch.zeros(count, SIZE, SIZE, dtype=torch.long)
    for label, there in zip(labels, told, strict=True):
        for kind, top, left, image in there:
            spot = label[top : top + 8, left : left + 8]
            spot[(image > 0.2) & (spot == 0)] = VOID
            spot[image > 0.5] = 1 + kind
    return batches(noisy(drawn, 0.2).unsqueeze(1), labels)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of pixels that are not void."""
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs), labels, ignore_index=VOID)


def metric(model: nn.Module, loader: Loader) -> float:
    """Return the share of the digits' pixels that are classified right."""
    outputs, labels = outputs_and_labels(model, loader)
    of_digits = (labels != VOID) & (labels > 0)
    return float((outputs.argmax(1) == labels)[of_digits].float().mean())


def network() -> nn.Module:
    """Return a network with a bottleneck of half the resolution."""
    wide = nn.Sequential(block(1, 16), nn.MaxPool2d(2), block(16, 64), block(64, 64))
    return nn.Sequential(wide, nn.Upsample(scale_factor=2, mode="nearest"), block(64, 32), nn.Conv2d(32, 11, 1))


def task() -> Task:
    """Return the trained network with its data, of which a part is left to learn from again."""
    torch.manual_seed(0)
    train, validation, test = (pictures(part, n) for part, n in (("train", 1600), ("validation", 320), ("test", 320)))
    net = trained(network(), train, loss, 10)
    return Task(net, torch.zeros(1, 1, SIZE, SIZE), train[:KEPT], validation, test=test, loss=loss, metric=metric)
