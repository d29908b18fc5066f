"""A user's study: a small network learns, in a second, in which quarter of an image the light is."""

import torch
from torch import Tensor, nn

from autocompress import Task


class Net(nn.Module):
    """Three convolutions and a linear layer."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        first, second, third = widths or (32, 64, 64)
        self.body = nn.Sequential(nn.Conv2d(1, first, 3, padding=1), nn.ReLU(), nn.Conv2d(first, second, 3, padding=1))
        self.last = nn.Sequential(nn.ReLU(), nn.Conv2d(second, third, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(third, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit for each quarter."""
        return self.classify(self.body(x))

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits of what the body found."""
        return self.head(self.last(features).amax((2, 3)))


def batches(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return so many batches of noisy images and the quarters that are brighter."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        labels = torch.randint(0, 4, (32,), generator=generator)
        images = torch.randn(32, 1, 8, 8, generator=generator) * 0.5
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[0, row : row + 4, column : column + 4] += 1 + label
        made.append((images, labels))
    return made


def trained(net: nn.Module) -> Task:
    """Train a network for a few steps and return its task."""
    torch.manual_seed(0)
    train = batches(20, 0)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(2):
        for images, labels in train:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimizer.step()
    return Task(net, torch.zeros(1, 1, 8, 8), train, batches(8, 1), test=batches(8, 2), epochs=0.5, final_epochs=0.5)


def task() -> Task:
    """Return the trained network with its data."""
    torch.manual_seed(0)
    return trained(Net())
