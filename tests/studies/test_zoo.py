"""Pretrained models on a small image folder, without a download."""

import builtins
from itertools import islice
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from autocompress.compressors.batches import Endless
from autocompress.errors import StudyError
from autocompress.studies import zoo
from autocompress.studies.images import random_part
from autocompress.studies.loading import load
from autocompress.studies.random_states import seeded
from autocompress.studies.task import Task

CLASSES = 2


def write_images(folder: Path, *, classes: int = CLASSES, each: int = 5) -> Path:
    """Write single-coloured images, one folder a class."""
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (40, 30), (20 * i, 100 * label, 7)).save(folder / f"class{label}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a state dict of a ResNet-18 with random weights."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18(num_classes=CLASSES).state_dict(), path)
    return path


def labels(loader: Any) -> list[int]:
    """Return all labels of one pass."""
    return [int(label) for _, batch in loader for label in batch]


def check(task: Task) -> None:
    """Check that the example is what torchvision's ResNet-18 takes, and that the task can be pickled."""
    assert task.examples[0].shape == (1, 3, 224, 224)
    assert not task.model.training
    copied = cloudpickle.loads(cloudpickle.dumps(task))
    inputs, _ = next(iter(copied.train))
    assert copied.model(inputs[:1]).shape == (1, CLASSES)


def test_a_flat_tree_is_split_the_same_way_each_time(tmp_path: Path, weights: Path) -> None:
    """Ten images become six, two and two; the files' own preprocessing is the model's."""
    data = f"imagefolder:{write_images(tmp_path / 'flat')}"
    task, again = (load("torchvision:resnet18", data=data, weights=weights) for _ in range(2))
    assert sorted(labels(task.train)) == sorted(labels(again.train))
    assert [len(labels(loader)) for loader in (task.train, task.validation, task.test)] == [6, 2, 2]
    assert torch.equal(next(iter(task.validation))[0], next(iter(again.validation))[0])
    check(task)


@pytest.mark.parametrize("with_test", [True, False])
def test_parts_of_the_users_own_are_kept(tmp_path: Path, weights: Path, with_test: bool) -> None:
    """train/, val/ and test/ are used as they are; test/ may be missing."""
    for part, each in [("train", 3), ("val", 2), ("test", 1)][: 3 if with_test else 2]:
        write_images(tmp_path / part, each=each)
    task = load("torchvision:resnet18", data=f"imagefolder:{tmp_path}", weights=weights)
    assert sorted(labels(task.train)) == [0, 0, 0, 1, 1, 1]
    assert labels(task.validation) == [0, 0, 1, 1]
    assert (labels(task.test) == [0, 1]) if with_test else task.test is None


def test_loaders_leave_the_random_state(tmp_path: Path, weights: Path) -> None:
    """Iterating draws nothing from torch's global generator."""
    task = load("torchvision:resnet18", data=f"imagefolder:{write_images(tmp_path / 'x')}", weights=weights)
    state = torch.get_rng_state()
    labels(task.train)
    labels(task.validation)
    assert torch.equal(torch.get_rng_state(), state)


def noise(folder: Path, *, each: int = 20) -> str:
    """Write images of which no two parts are alike; return what names them."""
    for label in range(CLASSES):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(each):
            pixels = np.random.default_rng((label, i)).integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{i:02}.png")
    return f"imagefolder:{folder}"


def first_batches(task: Task, seed: int) -> list[Tensor]:
    """Return the images of the first batches that a training sees."""
    with seeded(seed):
        return [inputs for inputs, _ in islice(Endless(task.train), 3)]


def test_a_training_sees_each_image_cut_and_mirrored_anew(tmp_path: Path, weights: Path) -> None:
    """No image comes twice as the same numbers; those that are scored or calibrated with come whole and the same."""
    task = load("torchvision:resnet18", data=noise(tmp_path / "x", each=5), weights=weights)
    seen = torch.cat([inputs for _ in range(3) for inputs, _ in task.train])
    assert len(seen) == 18
    assert len(seen.flatten(1).unique(dim=0)) == 18
    assert seen.shape[1:] == (3, 224, 224)
    loaders: list[Any] = [task.validation, task.test, task.calibration]
    for loader in loaders:
        (once, _), (again, _) = next(iter(loader)), next(iter(loader))
        assert torch.equal(once, again)


def test_a_seed_decides_all_that_a_training_sees(tmp_path: Path, weights: Path) -> None:
    """Order, cuts and mirrors are the same in another process, whatever trained there before."""
    task = load("torchvision:resnet18", data=noise(tmp_path / "x"), weights=weights)
    elsewhere = cloudpickle.loads(cloudpickle.dumps(task))
    once = first_batches(task, 1)
    first_batches(elsewhere, 2)
    labels(elsewhere.validation)
    for one, same, other in zip(once, first_batches(elsewhere, 1), first_batches(task, 2), strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


@pytest.mark.parametrize("room", [True, False])
def test_images_are_decoded_once_where_there_is_room(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, room: bool
) -> None:
    """What was read stays in memory, up to a number of bytes; it does not travel to other processes."""
    task = load("torchvision:resnet18", data=noise(tmp_path / "x", each=5), weights=weights)
    monkeypatch.setattr("autocompress.studies.images.CACHE_BYTES", 6 * 30 * 40 * 3 if room else 5)
    before = len(cloudpickle.dumps(task))
    first = next(iter(task.calibration))[0]  # type: ignore[arg-type]
    assert len(cloudpickle.dumps(task)) == before
    for path in (tmp_path / "x").rglob("*.png"):
        path.unlink()
    if room:
        assert torch.equal(next(iter(task.calibration))[0], first)  # type: ignore[arg-type]
        assert len(labels(task.train)) == 6
    with pytest.raises(FileNotFoundError):
        labels(task.train if not room else task.validation)


@given(width=st.integers(1, 300), height=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_a_random_part_is_a_large_part(width: int, height: int, seed: int) -> None:
    """It lies inside of the image, whatever its shape, and a square keeps more than half of its area."""
    part = random_part(Image.new("RGB", (width, height)), torch.Generator().manual_seed(seed))
    assert 1 <= part.width <= width
    assert 1 <= part.height <= height
    if width == height > 50:
        assert part.width * part.height > 0.45 * width * height


def test_timm_models_take_safetensors(tmp_path: Path) -> None:
    """The same works for timm, whose transform follows from the model."""
    timm = pytest.importorskip("timm")
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("mobilenetv3_small_050", num_classes=CLASSES).state_dict(), path)
    data = f"imagefolder:{write_images(tmp_path / 'flat')}"
    check(load("timm:mobilenetv3_small_050", data=data, weights=path))


@pytest.mark.parametrize(
    ("study", "data", "message"),
    [
        ("torchvision:resnet18", None, "needs --data imagefolder:DIR; torchvision:resnet18 came with no --data"),
        ("torchvision:resnet18", "csv:x", "came with csv:x"),
        ("torchvision:resnet81", "imagefolder:x", "'resnet81' is none. Close to it: .*resnet18"),
        ("timm:resnet81", "imagefolder:x", "'resnet81' is none. Close to it: .*resnet18"),
        ("torchvision:resnet18", "imagefolder:/no/such", "needs a folder for each class.*/no/such"),
    ],
)
def test_an_impossible_request_names_the_way_out(study: str, data: str | None, message: str) -> None:
    """Missing data and unknown models are refused before anything is downloaded."""
    with pytest.raises(StudyError, match=message):
        load(study, data=data)


def test_weights_for_other_classes_are_refused(tmp_path: Path, weights: Path) -> None:
    """A state dict is loaded strictly."""
    data = f"imagefolder:{write_images(tmp_path / 'x', classes=3)}"
    with pytest.raises(StudyError, match=r"of torchvision:resnet18 with 3 outputs.* RuntimeError"):
        load("torchvision:resnet18", data=data, weights=weights)


def test_parts_with_other_classes_are_refused(tmp_path: Path, weights: Path) -> None:
    """train/ and val/ that disagree about the classes would give wrong labels."""
    write_images(tmp_path / "train")
    write_images(tmp_path / "val", classes=3)
    with pytest.raises(StudyError, match="need the same classes"):
        load("torchvision:resnet18", data=f"imagefolder:{tmp_path}", weights=weights)


def test_a_folder_with_other_classes_than_the_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 1,000 outputs is not cut down in silence."""
    monkeypatch.setattr(zoo, "_download", lambda study, source: source.untrained("resnet18", 1000).eval())
    with pytest.raises(StudyError, match=r"has 1000 outputs, .* has 2 classes"):
        load("torchvision:resnet18", data=f"imagefolder:{write_images(tmp_path / 'x')}")


def test_a_failed_download_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a network is pointed to --weights."""

    def get_model(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    with pytest.raises(StudyError, match=r"OSError: no route to host.*--weights PATH"):
        load("torchvision:resnet18", data=f"imagefolder:{write_images(tmp_path / 'x')}")


def test_a_missing_timm_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    original = builtins.__import__

    def without_timm(name: str, *rest: Any) -> object:
        if name == "timm":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(StudyError, match=r"pip install 'autocompress\[timm\]'"):
        load("timm:resnet18", data="imagefolder:x")
