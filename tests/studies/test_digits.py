"""The default study: a network that comes trained, and splits that are judged on many images."""

import re
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest
import torch
from safetensors.torch import load_file

from autocompress.compressors.modules import work
from autocompress.studies import digits
from autocompress.studies.loading import load
from autocompress.studies.task import Task, top1
from autocompress.studies.validate import validate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def task() -> Task:
    """Return the study's task."""
    return load("digits")


def test_the_task_keeps_the_rules(task: Task) -> None:
    """The built-in study passes the check that users' studies pass, and nothing in it is remarkable."""
    assert validate(task).notes == ()


def test_the_network_is_as_accurate_as_its_file_says(task: Task) -> None:
    """Both splits that judge have the share of right images that the docstring names, give or take one image."""
    assert task.test is not None
    claimed = [float(share) / 100 for share in re.findall(r"([\d.]+) %", digits.__doc__ or "")]
    assert [top1(task.model, loader) for loader in (task.validation, task.test)] == pytest.approx(claimed, abs=0.0016)


def test_loading_it_needs_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights come with the package: nothing is trained, and nothing is written."""
    monkeypatch.setenv("AUTOCOMPRESS_CACHE", str(tmp_path / "cache"))
    assert not load("digits").model.training
    assert not any(tmp_path.iterdir())


def test_a_form_is_served_at_a_time(task: Task) -> None:
    """Latency is measured on 32 images of one channel, 16×16; batches match them."""
    assert task.examples[0].shape == (digits.FORM, 1, 16, 16)
    inputs, labels = next(iter(task.train))
    assert inputs.shape == (32, 1, 16, 16)
    assert labels.shape == (32,)
    assert task.model(inputs).shape == (32, 10)


def test_no_core_serves_it_in_five_milliseconds(task: Task) -> None:
    """A form takes as many multiply-accumulates as the docstring says: over 5 ms for two 512-bit units at 5 GHz."""
    done = digits.FORM * sum(work(task.model, task.examples).values())
    assert f"{done / 1e6:.0f} million multiply-accumulates" in " ".join((digits.__doc__ or "").split())
    assert done / 160e9 > 0.005


def test_distortions_are_drawn_from_torchs_random_state() -> None:
    """The same state gives the same images, the next another; all stay recognisable, and of the same shape."""
    images, labels = (tensor[:200] for tensor in digits.images())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        first, other = digits.distorted(images), digits.distorted(images)
        torch.default_generator.manual_seed(3)
        assert torch.equal(digits.distorted(images), first)
    assert first.shape == images.shape
    assert (first - other).abs().mean() > 0.1
    assert top1(digits.trained(), [(first, labels)]) > 0.95


def test_splits_share_no_image(task: Task) -> None:
    """Every image is in one split, and all splits together are the data set."""
    everything, _ = digits.images()
    train = cloudpickle.loads(cloudpickle.dumps(task.train)).inputs
    assert task.test is not None
    held_out = [torch.cat([inputs for inputs, _ in loader]) for loader in (task.validation, task.test)]
    assert [len(part) for part in (train, *held_out)] == [500, 650, 647]
    together = torch.cat([train, *held_out]).flatten(1)
    assert torch.equal(together, everything.flatten(1))
    assert len(together.unique(dim=0)) == len(everything.flatten(1).unique(dim=0)) == 1797


def test_a_copy_of_the_file_is_a_study(tmp_path: Path, task: Task) -> None:
    """The file works wherever it is copied to, as the documentation promises."""
    copy = tmp_path / "copied.py"
    copy.write_text(Path(digits.__file__).read_text())
    torch.testing.assert_close(load(str(copy)).model.state_dict(), task.model.state_dict())


def test_the_weights_are_trained_by_the_script(tmp_path: Path) -> None:
    """The script writes a file of the same form, whose network has learned something after three passes."""
    out = tmp_path / "digits.safetensors"
    script = [sys.executable, str(ROOT / "scripts" / "train_digits.py"), "--out", str(out), "--epochs", "3"]
    done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[1].rstrip("%")) > 30
    written, packaged = load_file(out), load_file(str(digits.WEIGHTS))
    assert {n: (t.shape, t.dtype) for n, t in written.items()} == {n: (t.shape, t.dtype) for n, t in packaged.items()}
