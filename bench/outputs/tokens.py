"""A class for each of a sequence of digits: outputs (batch, positions, classes), and padding.

autocompress bench/outputs/tokens.py --target-latency 500us
"""

from __future__ import annotations

import torch
from drawn import KEPT, Batches, batches, digits, noisy, outputs_and_labels, trained
from torch import Tensor, nn

from autocompress.studies.task import Loader, Task

LENGTH, IGNORED = 12, -100


class Reader(nn.Module):
    """An encoder over digits, each of which is a vector of its pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(64, 64)
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.place = nn.Parameter(0.1 * torch.randn(LENGTH, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, positions, classes)."""
        logits: Tensor = self.head(self.encoder(self.embed(x) + self.place))
        return logits


def sequences(part: str, count: int) -> Batches:
    """Return sequences of 4 to 12 noisy digits and, at each, the greater of it and the one before."""
    generator = torch.Generator().manual_seed(len(part))
    images, classes = digits(part)
    chosen = torch.randint(len(images), (count, LENGTH), generator=generator)
    labels = classes[chosen]
    labels[:, 1:] = torch.maximum(labels[:, 1:], classes[chosen][:, :-1])
    padded = torch.arange(LENGTH) >= torch.randint(4, LENGTH + 1, (count, 1), generator=generator)
    inputs = noisy(images[chosen].flatten(2), 0.3)
    return batches(inputs.masked_fill(padded.unsqueeze(2), 0.0), labels.masked_fill(padded, IGNORED))


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of positions that are no padding."""
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())


def metric(model: nn.Module, loader: Loader) -> float:
    """Return the share of right answers at positions that are no padding."""
    outputs, labels = outputs_and_labels(model, loader)
    return float((outputs.argmax(2) == labels)[labels != IGNORED].float().mean())


def task() -> Task:
    """Return the trained network with its data, of which a part is left to learn from again."""
    torch.manual_seed(0)
    train, validation, test = (sequences(part, n) for part, n in (("train", 1600), ("validation", 320), ("test", 320)))
    net = trained(Reader(), train, loss, 12)
    return Task(net, torch.zeros(1, LENGTH, 64), train[:KEPT], validation, test=test, loss=loss, metric=metric)
