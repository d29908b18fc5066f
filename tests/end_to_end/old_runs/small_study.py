"""A user's study: a tiny network, whose weights lie beside it, tells which quarter of an image is brighter."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autocompress import Task
from autocompress.studies.distance import Softmax

WEIGHTS = Path(__file__).with_name("small_weights.safetensors")

BROKEN = 8
"""A width of the second convolution with which the network does not run."""


class Net(nn.Module):
    """Three convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 24, 3, padding=1)
        self.third = nn.Conv2d(24, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit for each quarter."""
        x = self.second(self.first(x).relu())
        if x.shape[1] == BROKEN:
            raise ValueError(f"{BROKEN} channels cannot be shared among the heads")
        return self.head(self.third(x.relu()).relu().amax((2, 3)))


def batches(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return noisy images and the quarters that are brighter; integers, so that every machine draws the same ones."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        labels = torch.randint(0, 4, (32,), generator=generator)
        images = torch.randint(-8, 9, (32, 1, 8, 8), generator=generator) / 8
        for image, label in zip(images, labels.tolist(), strict=True):
            row, column = 4 * (label // 2), 4 * (label % 2)
            image[0, row : row + 4, column : column + 4] += (1 + label) / 4
        made.append((images, labels))
    return made


def task() -> Task:
    """Return the trained network with its data."""
    net = Net()
    net.load_state_dict(load_file(WEIGHTS))
    data = {"train": batches(12, 0), "validation": batches(8, 1), "test": batches(8, 2)}
    return Task(net, torch.zeros(1, 1, 8, 8), **data, epochs=1, final_epochs=2, distance=Softmax(axis=-1))
