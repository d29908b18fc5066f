"""The teacher's answers are computed once for a study, and change nothing but the time."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.batches import Endless
from autocompress.compressors.distillation import answers as module
from autocompress.compressors.distillation.answers import DIFFERENCES, Answers
from autocompress.compressors.distillation.distill import distil
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.stream import Stream
from autocompress.spaces.candidate import Candidate
from autocompress.studies.distance import Softmax
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Batch, Task
from autocompress.studies.training import Shuffled

BATCHES = 4
STREAM = Stream(seed=7, passes=2, first=1)
PRUNED = Candidate({"pruning_ratio": {"stem.0": 0.5}})


class Counted(nn.Module):
    """A network that counts its forward passes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs."""
        self.calls += 1
        return self.network(x)


def images() -> tuple[Tensor, Tensor]:
    """Return a few noisy images of two classes."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(8 * BATCHES, 1, 8, 8, generator=generator), torch.arange(8 * BATCHES) % 2


def network(seed: int = 0) -> nn.Module:
    """Return an untrained network."""
    torch.manual_seed(seed)
    return ResidualNet((8, 16), (1, 1), classes=2).eval()


def task() -> Task:
    """Return a task whose teacher is counted; the example inputs are another number of images than a batch."""
    x, y = images()
    return Task(
        model=network(),
        teacher=Counted(network(1)).eval(),
        example_inputs=x[:1],
        train=Shuffled(x, y, batch_size=8),
        validation=[(x, y)],
        distance=Softmax(),
    )


def trained(
    it: Task, folder: Path | None, settings: dict[str, object] | None = None, *, epochs: float = 1.5, first: int = 1
) -> tuple[dict[str, Tensor], int]:
    """Return the weights of a trained student, and how often its training asked the teacher."""
    counted, student = it.teacher, copy.deepcopy(it.model)
    assert isinstance(counted, Counted)
    before, batches = counted.calls, Endless(it.train, replace(STREAM, first=first))
    answers = None if folder is None else Answers(folder, batches)
    distil(student, counted, it, settings=settings or {}, epochs=epochs, seed=3, batches=batches, answers=answers)
    return student.state_dict(), counted.calls - before


def built(it: Task, folder: Path | None, candidate: Candidate) -> tuple[dict[str, Tensor], int]:
    """Return the same of a candidate that was trained in all of its phases."""
    counted, supplies = it.teacher, supplies_of(it)
    assert isinstance(counted, Counted)
    before = counted.calls
    made = apply_candidate(it, candidate, supplies, epochs=1.5, seed=3, stream=STREAM, answers=folder)
    return made.state(), counted.calls - before


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two networks' weights are equal to the last bit."""
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def files(folder: Path) -> list[Path]:
    """Return all files of answers."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "axes",
    [{}, {"pruning": {"steps": 2}}, {"bits": {"head": 8}}, {"distillation": {"weight": 0.5, "temperature": 4.0}}],
    ids=["one phase", "steps", "INT8", "settings"],
)
def test_kept_answers_give_the_same_weights(tmp_path: Path, axes: dict[str, dict[str, object]]) -> None:
    """A training is the same to the last bit without them, while they are computed, and with all of them."""
    candidate = Candidate({**PRUNED.axes, **axes})
    it = task()
    (live, asked), (first, computed), (second, again) = (
        built(it, folder, candidate) for folder in (None, tmp_path, tmp_path)
    )
    assert same(live, first)
    assert same(live, second)
    assert asked == computed == round(1.5 * BATCHES) == len(files(tmp_path))
    assert again == 0


def test_another_training_finds_the_answers_where_it_begins(tmp_path: Path) -> None:
    """What differs between two trials is not the batches' content: only the rest of the stream is computed."""
    it = task()
    trained(it, tmp_path, epochs=1)
    assert trained(it, tmp_path, {"temperature": 4.0}, epochs=2, first=0)[1] == BATCHES
    assert len(files(tmp_path)) == 2 * BATCHES


def test_another_teacher_meets_no_old_answers(tmp_path: Path) -> None:
    """A weight, a buffer or a layer that has changed is another teacher."""
    it = task()
    trained(it, tmp_path)
    changes: list[Callable[[nn.Module], object]] = [
        lambda net: net.head.bias.data.add_(1e-3),
        lambda net: net.stem[1].running_mean.add_(1e-3),
        lambda net: net.stages.append(nn.ReLU()),
    ]
    for change in changes:
        with torch.no_grad():
            change(it.teacher.network)
        assert trained(it, tmp_path)[1] == round(1.5 * BATCHES)
    assert trained(it, tmp_path)[1] == 0


class Jittered(Shuffled):
    """Augments with random numbers of its own, which no seed reaches."""

    rng = np.random.default_rng(0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield noisy batches."""
        for inputs, labels in super().__iter__():
            yield inputs + float(self.rng.random()), labels


def test_other_batches_than_those_of_the_answers_are_computed(tmp_path: Path) -> None:
    """Random augmentation without a seed never takes an old answer; a training soon stops to look for them."""
    x, y = images()
    it = replace(task(), train=Jittered(x, y, batch_size=8))
    trained(it, tmp_path, epochs=2)
    kept = {path: path.read_bytes() for path in files(tmp_path)}
    assert len(kept) == 2 * BATCHES
    asked: list[bytes] = []
    checksum = module._digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_digest", lambda value: asked.append(b"") or checksum(value))
        assert trained(it, tmp_path, epochs=2)[1] == 2 * BATCHES
    assert len(asked) == 1 + DIFFERENCES  # one is the teacher's own
    assert {path: path.read_bytes() for path in files(tmp_path)} == kept


def two_views(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of an image and its mirror."""
    inputs, labels = batch
    return sum(functional.cross_entropy(model(x), labels) for x in (inputs, inputs.flip(3)))  # type: ignore[return-value]


def test_each_call_of_the_loss_has_its_own_answer(tmp_path: Path) -> None:
    """Two views of a batch are two calls, which are answered in their order."""
    it = replace(task(), loss=two_views)
    (live, _), (first, computed), (second, again) = (trained(it, folder) for folder in (None, tmp_path, tmp_path))
    assert same(live, first)
    assert same(live, second)
    assert (computed, again) == (2 * round(1.5 * BATCHES), 0)


def test_a_batch_that_follows_itself_is_the_same_batch(tmp_path: Path) -> None:
    """A pass of one batch needs one answer, however long the training is."""
    it = replace(task(), train=[images()])
    assert trained(it, tmp_path, epochs=4)[1] == len(files(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "a bit"])
def test_damaged_answers_are_computed_again(tmp_path: Path, damage: str) -> None:
    """A file that is not whole, after a power cut say, is replaced."""
    it = task()
    trained(it, tmp_path)
    first, *_ = files(tmp_path)
    content = first.read_bytes()
    wrong = {"cut": content[:-4], "empty": b"", "a bit": content[:-1] + bytes([content[-1] ^ 1])}[damage]
    first.write_bytes(wrong)
    state, computed = trained(it, tmp_path)
    assert computed == 1
    assert first.read_bytes() == content
    assert same(state, trained(it, None)[0])


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning in a process says where and why; the trainings end as ever."""
    (folder := tmp_path / "answers").write_text("a file")
    it = task()
    with caplog.at_level(logging.WARNING):
        states = [trained(it, each)[0] for each in (folder, folder, None)]
    assert same(states[0], states[2])
    assert same(states[1], states[2])
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"the teacher's outputs cannot be kept in {str(folder)!r} (")


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun is deleted, and nothing more is tried in this training."""
    tries = []

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:20])
        tries.append(path)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert trained(task(), tmp_path)[1] == round(1.5 * BATCHES)
    assert len(tries) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["MOST_BYTES", "DISK_SHARE"])
def test_answers_take_no_more_room_than_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The later ones are computed each time; those that are there are used."""
    it = task()
    trained(it, whole := tmp_path / "whole")
    one = files(whole)[0].stat().st_size
    if name == "MOST_BYTES":
        monkeypatch.setattr(module, name, module.PORTION * one)  # room for the first: the next finds less than it needs
    else:
        monkeypatch.setattr(module, name, 1e-12)
    state, _ = trained(it, folder := tmp_path / "folder")
    assert len(files(folder)) == (1 if name == "MOST_BYTES" else 0)
    assert trained(it, folder)[1] == round(1.5 * BATCHES) - len(files(folder))
    assert same(state, trained(it, None)[0])


def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
    """Ask the teacher once."""
    teacher(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("fields", "settings", "asked"),
    [
        ({}, {"weight": 0.0}, 0),
        ({}, {"features": 1.0}, None),
        ({}, {"attention": 1.0}, None),
        ({"fit": fit}, {}, 1),
        ({"distance": "off"}, {}, 0),
    ],
    ids=["no weight", "features", "attention", "fit", "no distance"],
)
def test_nothing_is_kept_where_no_soft_labels_are_learned(
    tmp_path: Path, fields: dict[str, object], settings: dict[str, object], asked: int | None
) -> None:
    """Hints need the inside of the teacher, and a training of one's own asks it itself."""
    it = replace(task(), **fields)
    calls = [trained(it, tmp_path, settings)[1] for _ in range(2)]
    assert calls[0] == calls[1]
    assert asked in (None, calls[0])
    assert files(tmp_path) == []


def test_inputs_without_a_checksum_are_computed(tmp_path: Path) -> None:
    """An object of the user's own may hold anything."""

    class Graph:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    class OfGraphs(nn.Module):
        def forward(self, graph: Graph) -> Tensor:
            return graph.x + 1

    class Batches:
        place, drawn = "0", 1

    kept = Answers(tmp_path, Batches())  # type: ignore[arg-type]
    answer = kept.of(OfGraphs(), "float32")
    assert [float(answer(Graph(torch.tensor(x)))) for x in (1.0, 2.0)] == [2.0, 3.0]
    assert files(tmp_path) == []


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["", "a", "ab"]))
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text("ab", max_size=2), inner))
)


@given(one=VALUES, other=VALUES)
def test_a_checksum_tells_structures_apart(one: object, other: object) -> None:
    """What is put together differently is another input; a list is as a tuple."""
    assert (module._digest(one) == module._digest(other)) == (repr(one) == repr(other))


def test_a_checksum_tells_tensors_apart() -> None:
    """The kind of number and the shape count as much as the content."""
    tensors = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4).long(), torch.zeros(4).half(), torch.ones(4)]
    assert len({module._digest(tensor) for tensor in tensors}) == len(tensors)
    grid = torch.arange(6.0).reshape(2, 3)
    assert module._digest(grid.T) == module._digest(grid.T.contiguous()) != module._digest(grid.reshape(3, 2))
