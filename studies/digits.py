"""Handwritten digits: all 1,797 images of scikit-learn at 16×16, and a residual network that comes trained.

The network has 0.7 million parameters. It was trained on 500 images, turned and shifted at random, and has 99.08 %
of the 650 validation images right, and 98.15 % of the 647 test images. ``scripts/train_digits.py`` trains it again.

It reads the 32 boxes of a form at once, and that is what is timed. A form takes 841 million multiply-accumulates, which
a core with two 512-bit units does at 5 GHz in 5.3 ms at best, and one with two 256-bit units at 3.7 GHz in 14.2 ms.

Copy this file to begin a study of your own: replace the data, the network and its weights, and keep `task`.
"""

from __future__ import annotations

from importlib.resources import files

import torch
from safetensors.torch import load
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task
from autocompress.studies.training import Shuffled, batches

WIDTHS, BLOCKS = (32, 64, 128), (2, 2, 2)
WEIGHTS = files("autocompress.studies") / "digits.safetensors"
TRAIN, VALIDATION = 500, 650  # the other 647 images are the test set
FORM = 32
"""Images that are served at a time: the boxes of a form."""


def images() -> tuple[Tensor, Tensor]:
    """Return all images (1797, 1, 16, 16) between -1 and 1 and their labels (1797,), in a seeded order."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return functional.interpolate(pixels, scale_factor=2, mode="bilinear")[order], labels[order]


def distorted(images: Tensor) -> Tensor:
    """Return images (N, 1, H, W) turned, slanted, scaled, shifted and with noise, drawn from torch's random state."""
    count = len(images)
    angle, slant, scale = 0.15 * torch.randn(count), 0.15 * torch.randn(count), (0.08 * torch.randn(count)).exp()
    zero, one = torch.zeros(count), torch.ones(count)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(count, 2, 2)
    shear = torch.stack([one, slant, zero, one], 1).view(count, 2, 2)
    maps = torch.cat([turn @ shear * scale.view(count, 1, 1), 0.08 * torch.randn(count, 2, 1)], 2)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images + 1, grid, align_corners=False) - 1  # what moves in from outside is paper: -1
    return moved + 0.1 * torch.randn_like(moved)


def network() -> ResidualNet:
    """Return the untrained network."""
    return ResidualNet(WIDTHS, BLOCKS)


def trained() -> ResidualNet:
    """Return the network with the weights that come with the package."""
    model = network()
    model.load_state_dict(load(WEIGHTS.read_bytes()))
    return model.eval()


def loaders() -> tuple[Shuffled, list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """Return the images to train on, to validate with and to test with."""
    (x, x_val, x_test), (y, y_val, y_test) = (tensor.tensor_split([TRAIN, TRAIN + VALIDATION]) for tensor in images())
    train = Shuffled(x, y, batch_size=32, prepare=distorted)  # a pass: 15 steps, one or two seconds
    return train, batches(x_val, y_val, batch_size=100), batches(x_test, y_test, batch_size=100)


def task() -> Task:
    """Return the trained network with its three splits."""
    train, validation, test = loaders()
    form = validation[0][0][:FORM].clone()
    return Task(trained(), form, train, validation, test=test, epochs=1, final_epochs=3)
