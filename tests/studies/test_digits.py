"""The default study, with a network and a recipe that are small enough for a test."""

from dataclasses import replace
from pathlib import Path

import cloudpickle
import pytest
import torch

from autocompress.studies import digits
from autocompress.studies.loading import load
from autocompress.studies.task import Task
from autocompress.studies.validate import validate


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Task:
    """Return the study's task around a network that is trained in a second."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr(digits, "WIDTHS", (4, 4, 8, 8))
    monkeypatch.setattr(digits, "RECIPE", replace(digits.RECIPE, epochs=1))
    return load("digits")


def test_the_task_keeps_the_rules(task: Task) -> None:
    """The built-in study passes the check that users' studies pass."""
    validate(task)


def test_images_are_served_one_at_a_time(task: Task) -> None:
    """Latency is measured on one image of one channel, 16×16; batches match it."""
    assert task.examples[0].shape == (1, 1, 16, 16)
    inputs, labels = next(iter(task.train))
    assert inputs.shape == (32, 1, 16, 16)
    assert labels.shape == (32,)
    assert task.model(inputs).shape == (32, 10)


def test_splits_share_no_image(task: Task) -> None:
    """Every image is in one split, and all splits together are the data set."""
    everything, _ = digits.images()
    train = cloudpickle.loads(cloudpickle.dumps(task.train)).inputs
    assert task.test is not None
    held_out = [torch.cat([inputs for inputs, _ in loader]) for loader in (task.validation, task.test)]
    assert [len(part) for part in (train, *held_out)] == [1100, 300, 397]
    together = torch.cat([train, *held_out]).flatten(1)
    assert torch.equal(together, everything.flatten(1))
    assert len(together.unique(dim=0)) == len(everything.flatten(1).unique(dim=0)) == 1797


def test_a_copy_of_the_file_is_a_study(tmp_path: Path, task: Task) -> None:
    """The file works wherever it is copied to, as the documentation promises."""
    text = Path(digits.__file__).read_text()
    text = text.replace("(64, 128, 256, 512)", str(digits.WIDTHS)).replace("epochs=5", "epochs=1")
    copy = tmp_path / "copied.py"
    copy.write_text(text)
    torch.testing.assert_close(load(str(copy)).model.state_dict(), task.model.state_dict())
