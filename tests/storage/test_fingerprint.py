"""A run is resumed with the study it began with: another network, data or metric is refused."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from autocompress import ParetoFront, RunDirectoryError, compress
from autocompress.storage.fingerprint import FILE, check_same, fingerprint_of, keep, loosen
from autocompress.storage.run_directory import RunDirectory
from autocompress.studies.loading import load
from autocompress.studies.task import Task

STUDY = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from autocompress import Task


def smoothed(answers, labels):
    '''Return the loss.'''
    return nn.functional.cross_entropy(answers, labels, label_smoothing=0.1)


def fit(student, teacher, epochs):
    optimizer = torch.optim.SGD(student.parameters(), 0.01)
    for inputs, labels in task().train:
        optimizer.zero_grad()
        smoothed(student(inputs), labels).backward()
        optimizer.step()


def loss(model, batch):
    inputs, labels = batch
    return nn.functional.cross_entropy(model(inputs), labels)


def metric(model, loader):
    with torch.no_grad():
        return -sum(float(nn.functional.cross_entropy(model(x), y)) for x, y in loader)


def task():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    teacher = nn.Sequential(nn.Linear(8, 4))
    inputs, labels = torch.randn(96, 8), torch.randint(0, 4, (96,))
    train, validation = TensorDataset(inputs[:64], labels[:64]), TensorDataset(inputs[64:], labels[64:])
    return Task(net, inputs[:1], DataLoader(train, 16, shuffle=True), DataLoader(validation, 16),
                loss=loss, metric=metric, fit=fit, teacher=teacher)
"""

CHANGES = {
    "the model's weights": ("return Task(net", "net[0].weight.data *= 1.001\n    return Task(net"),
    "the teacher": ("return Task(net", "teacher[0].bias.data += 1\n    return Task(net"),
    "the train data": ("inputs[:64], labels[:64]", "inputs[:64], labels[:64].flip(0)"),
    "the validation data": ("TensorDataset(inputs[64:]", "TensorDataset(2 * inputs[64:]"),
    "the loss": ("model(inputs), labels)", "model(inputs), labels, label_smoothing=0.1)"),
    "the metric": ("return -sum(", "return -2 * sum("),
    "the distance": ("fit=fit", "distance='mse', fit=fit"),
    "the fit": ("label_smoothing=0.1)", "label_smoothing=0.2)"),
}
"""What is changed in the study, what is there, and what takes its place."""

NO_CHANGE = {
    "a comment": ("def task():", "# trained for ten passes\n\n\ndef task():"),
    "documentation": ("'''Return the loss.'''", "'''Return the smoothed loss.'''"),
    "larger batches": ("DataLoader(validation, 16)", "DataLoader(validation, 32)"),
    "a loss that is written otherwise": ("inputs, labels = batch\n", "inputs, labels = batch[0], batch[1]\n"),
    "passes": ("teacher=teacher)", "teacher=teacher, epochs=2.0, description='A study')"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a run keeps of a study, as it is kept."""
    folder = tmp_path_factory.mktemp("begun")
    made = task(folder, STUDY)
    (folder / "run" / "baseline").mkdir(parents=True)
    save_file(made.model.state_dict(), folder / "run" / "baseline" / "original.safetensors")
    (folder / "run" / FILE).write_text(json.dumps(fingerprint_of(made)))
    return folder / "run"


def task(folder: Path, text: str) -> Task:
    """Load a study's text."""
    file = folder / "study.py"
    file.write_text(textwrap.dedent(text))
    return load(str(file))


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_a_study_is_seen(what: str, begun: Path, tmp_path: Path) -> None:
    """The part that has changed is named, with the way out."""
    before, after = CHANGES[what]
    assert before in STUDY
    with pytest.raises(RunDirectoryError, match=rf"these have changed: .*{what}.*--out DIR"):
        check_same(begun, task(tmp_path, STUDY.replace(before, after, 1)))


@pytest.mark.parametrize("what", NO_CHANGE)
def test_what_changes_nothing_is_no_other_study(what: str, begun: Path, tmp_path: Path) -> None:
    """Comments, documentation, another way to write the same: the run is resumed."""
    before, after = NO_CHANGE[what]
    assert before in STUDY
    check_same(begun, task(tmp_path, STUDY.replace(before, after, 1)))


class Restless:
    """A loader that gives something new each time."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        yield torch.full((4, 8), float(self.passes)), torch.zeros(4).long()


def test_what_changes_each_time_tells_nothing(tmp_path: Path) -> None:
    """A loader that never gives the same is no reason to refuse, nor is a metric that needs more than a batch."""

    def metric(model: nn.Module, loader: object) -> float:
        raise ValueError("of one batch there is no such metric")

    def made() -> Task:
        torch.manual_seed(0)
        data = DataLoader(TensorDataset(torch.ones(4, 8), torch.zeros(4).long()), 4)
        return Task(nn.Sequential(nn.Linear(8, 4)), torch.zeros(1, 8), Restless(), data, metric=metric)

    (tmp_path / FILE).write_text(json.dumps(fingerprint_of(made())))
    other = made()
    next(iter(other.train))
    assert check_same(tmp_path, other)["metric"] is None


def test_nothing_is_told_from_nothing(tmp_path: Path) -> None:
    """A directory without a run goes with any study, and is not made."""
    check_same(tmp_path / "run", task(tmp_path, STUDY))
    assert not (tmp_path / "run").exists()


def test_a_retrained_network_is_refused_and_the_run_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call with other weights ends before anything is measured; with the first ones it is resumed."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, trials: int) -> ParetoFront:
        task(tmp_path, text)
        return compress("study.py", "50ms", runtimes="fake", workers=0, trials=trials, epochs=0.5, final_epochs=0.5)

    run(STUDY, 1)
    kept = {path: path.read_bytes() for path in (tmp_path / "runs" / "study").rglob("*") if path.is_file()}
    before, after = CHANGES["the model's weights"]
    with pytest.raises(RunDirectoryError, match="the model's weights"):
        run(STUDY.replace(before, after), 2)
    assert {path: path.read_bytes() for path in kept} == kept
    assert run(f"# well trained\n{STUDY}", 2).models


def test_what_nothing_was_trained_with_may_be_mended(tmp_path: Path) -> None:
    """Another loss, `fit` or training data are no other study then, once; other weights or data to score on are."""
    inputs, labels = torch.randn(24, 8), torch.arange(24) % 3
    data = [(inputs, labels)]
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()

    def other(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return 2 * nn.functional.cross_entropy(model(batch[0]), batch[1])

    before = Task(network, inputs[:1], data, data)
    mended = Task(network, inputs[:1], [(inputs + 1, labels)], data, loss=other, distance="off")
    with closing(RunDirectory(tmp_path / "run", {"study": "mine"})) as rundir:
        keep(rundir, fingerprint_of(before))
        with pytest.raises(RunDirectoryError, match=r"the train data.*the distance"):
            check_same(rundir.path, mended)
        loosen(rundir, None)
        keep(rundir, check_same(rundir.path, mended))
        with pytest.raises(RunDirectoryError, match="the train data"):
            check_same(rundir.path, before)
        with pytest.raises(RunDirectoryError, match="the validation data"):
            check_same(rundir.path, replace(mended, validation=[(inputs + 1, labels)]))
