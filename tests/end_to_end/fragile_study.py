"""A user's study whose network breaks in many ways, by the width that pruning leaves its second convolution."""

import time

import torch
from my_study import Net, trained
from torch import Tensor, nn

from autocompress import Task
from autocompress.studies.task import Loader, top1


class Fragile(Net):
    """A network that is sound with 64 channels, and with 32 until it is trained."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, or break."""
        features = self.body(x)
        width = features.shape[1]
        if width == 40:
            raise ValueError("40 channels cannot be shared among the heads")
        if width == 32 and self.training and torch.is_grad_enabled():
            time.sleep(3600)
        if width == 24 and self.training:
            features = features * float("nan")
        logits = self.classify(features)
        if width == 16:
            logits = logits + 0 * torch.linalg.svdvals(features.flatten(1)).sum()
        return logits * 1e6 if width == 48 else logits


def metric(model: nn.Module, loader: Loader) -> float:
    """Return the accuracy of outputs of a common size."""
    with torch.no_grad():
        largest = max(float(model(images).abs().max()) for images, _ in loader)
    if largest > 1e4:
        raise ZeroDivisionError("no class differs from the others")
    return top1(model, loader)


def task() -> Task:
    """Return the trained network with its data."""
    torch.manual_seed(0)
    sound = trained(Fragile())
    return Task(
        sound.model, sound.example_inputs, sound.train, sound.validation, metric=metric, epochs=0.5, final_epochs=0.5
    )
