"""Reading Fashion-MNIST from files; the network is trained on a few images only."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.datasets

from autocompress.errors import StudyError
from autocompress.studies import fashion_mnist
from autocompress.studies.loading import load
from autocompress.studies.validate import validate


def write_idx(path: Path, *shape: int) -> None:
    """Write bytes that count up, with the header of an idx file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    count = int(torch.tensor(shape).prod())
    path.write_bytes(gzip.compress(header + bytes(i % 10 for i in range(count))))


def write_all(folder: Path) -> None:
    """Write the four files of a tiny data set."""
    for name, count in zip(fashion_mnist.FILES, (320, 320, 40, 40), strict=True):
        write_idx(folder / name, *((count, 28, 28) if "images" in name else (count,)))


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrink the network and keep the cache apart."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "WIDTHS", (2, 2, 2, 2, 2))
    monkeypatch.setattr(fashion_mnist, "TRAIN", 256)


@pytest.mark.parametrize("layout", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_the_files_are_found_in_each_layout(tmp_path: Path, layout: str) -> None:
    """The folder itself, Debian's name and torchvision's layout all work."""
    write_all(tmp_path / layout)
    task = load("fashion_mnist", data_dir=tmp_path)
    validate(task)
    assert task.examples[0].shape == (1, 1, 28, 28)
    assert sum(len(labels) for _, labels in task.validation) == 64
    assert sum(len(labels) for _, labels in task.test or ()) == 40


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    """A named folder is never answered with a download."""
    write_all(tmp_path)
    (tmp_path / fashion_mnist.FILES[3]).unlink()
    with pytest.raises(StudyError, match=r"t10k-labels-idx1-ubyte\.gz.* --data-dir DIR"):
        load("fashion_mnist", data_dir=tmp_path)


def downloads(write: bool) -> Callable[..., None]:
    """Return what stands for torchvision's class: it writes the files, or fails as without a network."""

    def dataset(root: str, *, download: bool) -> None:
        if not write:
            raise OSError("no route to host")
        write_all(Path(root) / "FashionMNIST" / "raw")

    return dataset


def test_a_download_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder the files come once into the cache."""
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", downloads(write=True))
    assert fashion_mnist.find(None) == tmp_path / "cache" / "FashionMNIST" / "raw"
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", downloads(write=False))
    assert fashion_mnist.find(None) == tmp_path / "cache" / "FashionMNIST" / "raw"


def test_a_failed_download_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a network the message says which files to fetch."""
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", downloads(write=False))
    with pytest.raises(StudyError, match=r"no route to host.*train-images-idx3-ubyte\.gz.*--data-dir DIR"):
        load("fashion_mnist")


@pytest.mark.skipif("AUTOCOMPRESS_DATA" not in os.environ, reason="AUTOCOMPRESS_DATA does not name the data folder")
def test_the_real_files_are_read() -> None:
    """Shapes, label range and the constants of the normalisation are those of the data set."""
    folder = fashion_mnist.find(Path(os.environ["AUTOCOMPRESS_DATA"]))
    images, labels, test_images, test_labels = (fashion_mnist.read_idx(folder / name) for name in fashion_mnist.FILES)
    assert images.shape == (60_000, 28, 28)
    assert test_images.shape == (10_000, 28, 28)
    assert labels.bincount().tolist() == [6_000] * 10
    assert test_labels.bincount().tolist() == [1_000] * 10
    normal = fashion_mnist.normalized(images[:10_000])
    assert abs(float(normal.mean())) < 0.01
    assert abs(float(normal.std()) - 1) < 0.01
