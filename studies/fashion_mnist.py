"""Fashion-MNIST: 70,000 images of clothes at 28×28 and a residual network.

The four files are read from a folder (``--data-dir``), or downloaded once into the cache.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import torch
from torch import Tensor

from autocompress.errors import StudyError
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task
from autocompress.studies.training import Recipe, Shuffled, batches, cache_folder, trained

WIDTHS, BLOCKS = (16, 64, 128, 256, 512), (1, 1, 1, 1, 3)
RECIPE = Recipe(epochs=1, learning_rate=0.015)
TRAIN = 55_000  # of the 60,000 training images; the other 5,000 are the validation set
FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def network() -> ResidualNet:
    """Return the untrained network."""
    return ResidualNet(WIDTHS, BLOCKS)


def normalized(images: Tensor) -> Tensor:
    """Map images (N, 28, 28) of bytes to (N, 1, 28, 28) with mean 0 and standard deviation 1 over the data set."""
    return (images.unsqueeze(1).float() / 255 - 0.286) / 0.353


LARGEST = 100_000_000
"""Most bytes of an unpacked file; the largest one has half of them."""


def read_idx(path: Path) -> Tensor:
    """Return the bytes of a gzipped idx file as a tensor of the shape that its header gives."""
    with gzip.open(path) as file:
        data = bytearray(file.read(LARGEST))
    dimensions = data[3]
    shape = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions)]
    return torch.frombuffer(data, dtype=torch.uint8, offset=4 + 4 * dimensions).reshape(shape)


def find(data_dir: Path | None) -> Path:
    """Return the folder that holds the four files; without `data_dir` they are downloaded into the cache."""
    root = data_dir or cache_folder()
    for folder in (root, root / "fashion-mnist", root / "FashionMNIST" / "raw"):
        if all((folder / name).is_file() for name in FILES):
            return folder
    if data_dir is not None:
        raise StudyError(
            f"Fashion-MNIST is read from the files {', '.join(FILES)}; they are not all in {data_dir}, its "
            "fashion-mnist or its FashionMNIST/raw. Name the folder that holds them with --data-dir DIR"
        )
    return _download(root)


def _download(root: Path) -> Path:
    """Let torchvision download the files; return their folder."""
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415  # start-up time: torchvision is slow to import

    try:
        FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise StudyError(
            f"Fashion-MNIST could not be downloaded ({error}). Fetch {', '.join(FILES)} by other means "
            "and name their folder with --data-dir DIR"
        ) from error
    return root / "FashionMNIST" / "raw"


def task(*, data_dir: Path | None = None) -> Task:
    """Return the trained network with its three splits; the first call trains it and keeps it in the cache.

    Args:
        data_dir: folder with the four files; by default they are downloaded.
    """
    folder = find(data_dir)
    images, labels, test_images, test_labels = (read_idx(folder / name) for name in FILES)
    x, y = images[:TRAIN], labels[:TRAIN].long()
    return Task(
        model=trained(
            "fashion_mnist",
            network,
            Shuffled(x, y, batch_size=64, prepare=normalized),
            RECIPE,
            takes="about ten minutes",
        ),
        example_inputs=normalized(x[:1]),
        train=Shuffled(x, y, batch_size=64, per_pass=2_048, prepare=normalized),
        validation=batches(normalized(images[TRAIN:]), labels[TRAIN:].long(), batch_size=250),
        test=batches(normalized(test_images), test_labels.long(), batch_size=250),
        epochs=1,
        final_epochs=4,
    )
