"""Handwritten digits: scikit-learn's 1,797 images at 16×16 and a residual network; nothing is downloaded.

Copy this file to begin a study of your own: replace the data and the network, keep `task`.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task
from autocompress.studies.training import Recipe, Shuffled, batches, trained

WIDTHS, BLOCKS = (64, 128, 256, 512), (2, 2, 2, 4)
RECIPE = Recipe(epochs=5, learning_rate=0.01)
TRAIN, VALIDATION = 1100, 300  # the other 397 images are the test set
BATCH = 32


def images() -> tuple[Tensor, Tensor]:
    """Return all images (1797, 1, 16, 16) between -1 and 1 and their labels (1797,), in a seeded order."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return functional.interpolate(pixels, scale_factor=2, mode="bilinear")[order], labels[order]


def network() -> ResidualNet:
    """Return the untrained network."""
    return ResidualNet(WIDTHS, BLOCKS)


def task() -> Task:
    """Return the trained network with its three splits; the first call trains it and keeps it in the cache."""
    inputs, labels = images()
    (x, x_val, x_test), (y, y_val, y_test) = (
        tensor.tensor_split([TRAIN, TRAIN + VALIDATION]) for tensor in (inputs, labels)
    )
    everything = Shuffled(x, y, batch_size=BATCH)
    return Task(
        model=trained("digits", network, everything, RECIPE, takes="a minute or two on two cores"),
        example_inputs=x[:1].clone(),
        train=Shuffled(x, y, batch_size=BATCH, per_pass=256),  # a pass of a trial: 8 steps, a few seconds
        validation=batches(x_val, y_val, batch_size=100),
        test=batches(x_test, y_test, batch_size=100),
        epochs=1,
        final_epochs=2,
    )
