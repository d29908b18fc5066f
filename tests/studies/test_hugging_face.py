"""Classifiers of transformers come from a directory, and are compressed like any other network."""

from __future__ import annotations

from pathlib import Path

import cloudpickle
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.errors import StudyError
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, Candidate
from autocompress.studies.loading import load
from autocompress.studies.task import Task
from autocompress.studies.validate import validate

transformers = pytest.importorskip("transformers")

SIDE, EACH = 16, 60

CARD = "---\nlanguage: en\nlicense: apache-2.0\ntags:\n- vision\n---\n# A small network\n"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of handwritten digits as images, a folder each class."""
    folder = tmp_path_factory.mktemp("photos")
    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir()
        for i, image in enumerate(digits.images[digits.target == label][:EACH]):
            pixels = Image.fromarray((image * 15.9).astype(np.uint8)).resize((SIDE, SIDE))
            pixels.convert("RGB").save(folder / str(label) / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def network(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a small vision transformer that was trained for a moment on these images."""
    folder = tmp_path_factory.mktemp("networks") / "small vit"
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=SIDE,
        patch_size=4,
        num_labels=10,
    )
    model = transformers.ViTForImageClassification(config)
    processor = transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    task = load(f"transformers:{folder}", data=f"imagefolder:{photos}")
    network = task.model.train()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    batches = list(task.calibration)  # the training images as they are
    for _ in range(25):
        for batch in batches:
            optimizer.zero_grad()
            task.loss(network, batch).backward()
            optimizer.step()
    network.network.eval().save_pretrained(folder)
    return folder


@pytest.fixture
def task(network: Path, photos: Path) -> Task:
    """Return the task of the network on the images."""
    return load(f"transformers:{network}", data=f"imagefolder:{photos}")


@pytest.mark.usefixtures("one_thread")
def test_a_directory_is_a_task(task: Task) -> None:
    """It classifies, is prepared as its directory says, tells its licence, and can be pickled."""
    validate(task)
    assert task.examples[0].shape == (1, 3, SIDE, SIDE)
    assert task.metric(task.model, task.validation) > 0.5
    assert task.license == "apache-2.0"
    copied = cloudpickle.loads(cloudpickle.dumps(task))
    assert torch.equal(next(iter(copied.validation))[0], next(iter(task.validation))[0])


@pytest.mark.usefixtures("one_thread")
def test_it_is_pruned_quantized_and_served(task: Task) -> None:
    """The exported file computes what the compressed network does, with fewer channels."""
    found = inspect(task.model, task.examples)
    assert found.groups
    supplies = supplies_of(task)
    ratios = {group.name: 0.5 for group in found.groups}
    bits = {layer.name: 8 for layer in found.layers if "layer.0" in layer.name}
    small = apply_candidate(task, Candidate({PRUNING_RATIO: ratios, BITS: bits}), supplies, epochs=0)
    assert small.params < 0.8 * sum(p.numel() for p in task.model.parameters())
    session = onnxruntime.InferenceSession(small.onnx, providers=["CPUExecutionProvider"])
    inputs = supplies.calibration[0][0]
    (output,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    with torch.no_grad():
        expected = small.model(inputs).numpy()
    assert np.abs(output - expected).max() < 0.1 * np.ptp(expected)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "must be a directory that save_pretrained\\(\\) wrote"),
        (("config.json",), "must be a directory that save_pretrained\\(\\) wrote"),
        (("config.json", "model.safetensors"), "must have a preprocessor_config.json"),
    ],
)
def test_an_incomplete_directory_is_told(
    files: tuple[str, ...], said: str, network: Path, photos: Path, tmp_path: Path
) -> None:
    """With what is missing, and how to write it."""
    for name in files:
        (tmp_path / name).write_bytes((network / name).read_bytes())
    with pytest.raises(StudyError, match=said):
        load(f"transformers:{tmp_path}", data=f"imagefolder:{photos}")


def test_weights_of_another_kind_are_refused(network: Path, photos: Path, tmp_path: Path) -> None:
    """A directory has its weights."""
    with pytest.raises(StudyError, match=r"save_pretrained\(DIR\)"):
        load(f"transformers:{network}", data=f"imagefolder:{photos}", weights=tmp_path / "w.pth")
