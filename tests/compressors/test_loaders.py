"""Loaders as users write them: each can be trained from, calibrated from, counted and known again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    get_worker_info,
)

from autocompress.compressors import batches
from autocompress.compressors.batches import batches_in
from autocompress.compressors.distillation.distill import distil
from autocompress.compressors.pipeline import supplies_of
from autocompress.errors import StudyError
from autocompress.storage.fingerprint import differences, fingerprint_of
from autocompress.studies import counted as module
from autocompress.studies.counted import counted, examples, part_of_validation
from autocompress.studies.distance import Softmax
from autocompress.studies.loss_probe import choose_distance
from autocompress.studies.random_states import seeded
from autocompress.studies.task import Loader, Task

SIZE, BATCH = 40, 8
DATA = TensorDataset(torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(0)), torch.arange(SIZE) % 3)
VALIDATION = [(DATA.tensors[0], DATA.tensors[1])]


class Stream(IterableDataset[Any]):
    """Examples one after the other; how many is not known."""

    def __iter__(self) -> Iterator[Any]:
        """Yield them all, in each worker."""
        return iter(DATA)


class Shared(Stream):
    """The same, divided among the workers."""

    def __iter__(self) -> Iterator[Any]:
        """Yield this worker's part."""
        worker = get_worker_info()
        return iter(DATA) if worker is None else islice(iter(DATA), worker.id, None, worker.num_workers)


class Plain:
    """Yields batches; its length is what it is told to be."""

    def __init__(self, length: Callable[[], Any]) -> None:
        self.length = length

    def __len__(self) -> int:
        """Return what it was made with."""
        return self.length()  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Any]:
        """Yield five batches."""
        return iter(DataLoader(DATA, BATCH))


class Endless(Sampler[Any]):
    """Batches of indices without an end."""

    def __iter__(self) -> Iterator[Any]:
        """Yield them."""
        while True:
            yield list(range(BATCH))

    def __len__(self) -> int:
        """Return a pass's."""
        return 5


class Unsized(RandomSampler):
    """Shuffles, and does not say how much."""

    def __len__(self) -> int:
        """Raise."""
        raise NotImplementedError("nobody asked for it before")


def unhashable(length: Callable[[], Any]) -> Loader:
    """Return a loader that no dictionary takes."""

    class Equal(Plain):
        def __eq__(self, other: object) -> bool:
            return False

        __hash__ = None  # type: ignore[assignment]

    return Equal(length)


def collated(items: Any) -> Any:
    """Return what torch would."""
    return torch.utils.data.default_collate(items)


LOADERS: dict[str, Callable[[], Loader]] = {
    "stream": lambda: DataLoader(Stream(), BATCH),
    "stream in each of two workers": lambda: DataLoader(Stream(), BATCH, num_workers=2),
    "stream that two workers share": lambda: DataLoader(Shared(), BATCH, num_workers=2),
    "workers that stay, and a lambda": lambda: DataLoader(
        DATA, BATCH, num_workers=2, persistent_workers=True, collate_fn=lambda items: collated(items)
    ),
    "pinned": lambda: DataLoader(DATA, BATCH, pin_memory=True),
    "batches as items": lambda: DataLoader(list(DataLoader(DATA, BATCH)), batch_size=None),  # type: ignore[arg-type]
    "sampler of its own": lambda: DataLoader(DATA, BATCH, sampler=Unsized(DATA)),
    "batches of its own": lambda: DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), BATCH, True)),
    "batches without an end": lambda: DataLoader(DATA, batch_sampler=Endless()),
    "generator": lambda: DataLoader(DATA, BATCH, shuffle=True, generator=torch.Generator()),
    "no length": lambda: Plain(lambda: len(3)),  # type: ignore[arg-type]
    "a length of 0": lambda: Plain(lambda: 0),
    "a length below 0": lambda: Plain(lambda: -1),
    "a length that raises": lambda: unhashable(lambda: 1 // 0),
}


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest) -> Loader:
    """Return every kind of loader in turn."""
    return LOADERS[request.param]()


def task_of(train: Loader, **fields: Any) -> Task:
    """Return a network with a loader to train on."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)).eval()
    return Task(network, torch.zeros(1, 4), train, VALIDATION, **fields)


def steps_of(task: Task, epochs: float) -> int:
    """Return how many batches a network is trained on."""
    student, seen = copy.deepcopy(task.model), []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value = task.loss(model, batch)
        seen.append(model.training)
        return value

    distil(student, task.model, replace(task, loss=loss, distance=Softmax()), settings={}, epochs=epochs, seed=1)
    assert all(seen)
    assert not torch.equal(student[0].weight, task.model[0].weight)
    return len(seen)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # there is nothing here that it would be pinned for
def test_every_loader_is_taken_as_it_comes(loader: Loader) -> None:
    """A pass is five batches, or ten where each worker repeats the stream, for whatever looks at the data."""
    task = task_of(loader)
    before = torch.get_rng_state()
    count = batches_in(loader)
    assert torch.equal(torch.get_rng_state(), before)
    assert count in (5, 6, 10)
    assert steps_of(task, epochs=3 / count) == 3
    with seeded(0):
        assert len(list(islice(batches.Endless(loader), count + 2))) == count + 2
    supplies = supplies_of(task)
    assert sum(len(inputs[0]) for inputs in supplies.statistics) >= SIZE
    assert choose_distance(task).name == "softmax over axis 1"
    assert differences(fingerprint_of(task), fingerprint_of(task), task) == []
    assert examples(loader) in (None, SIZE)
    assert counted(task_of([], test=loader)).get("test", SIZE) == SIZE


def test_a_pass_is_counted_once() -> None:
    """A loader that does not tell its length is gone through for that once, however often it is asked."""
    passes = []

    class Counting(Stream):
        def __iter__(self) -> Iterator[Any]:
            passes.append(1)
            return super().__iter__()

    loader: Loader = DataLoader(Counting(), BATCH)
    assert [batches_in(loader) for _ in range(3)] == [5, 5, 5]
    assert len(passes) == 1


def test_a_pass_without_an_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has no length has to end; the message tells how to give it one."""

    class Forever:
        def __iter__(self) -> Iterator[Any]:
            while True:
                yield VALIDATION[0]

    monkeypatch.setattr(batches, "COUNTED_S", 0.05)
    with pytest.raises(StudyError, match=r"must end, or its loader must have a length.*__len__"):
        batches_in(Forever())


def test_items_that_are_batches_are_not_taken_for_examples() -> None:
    """How many examples there are is not known where a loader gives out batches that somebody else made."""
    assert examples(LOADERS["batches as items"]()) is None
    assert examples(LOADERS["batches without an end"]()) is None
    assert examples(DataLoader(DATA, BATCH)) == SIZE


def test_a_part_of_the_validation_data_is_spread_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that orders its examples by itself, or a metric of the user's own, has no part."""
    monkeypatch.setattr(module, "PART", 10)

    def part(loader: Loader, **how: Any) -> Any:
        return part_of_validation(replace(task_of([]), validation=loader, **how))

    loader = DataLoader(DATA, 2)
    expected = [list(DATA[i : i + 2][1]) for i in range(0, SIZE, 8)]
    for some in (part(loader), part(list(loader))):
        assert [labels.tolist() for _, labels in some.batches] == expected
        assert [int(DATA[place][1]) for place in some.places] == [label for labels in expected for label in labels]
    assert sum(len(labels) for _, labels in loader) == SIZE
    assert part(DataLoader(DATA, 2, shuffle=True)) is None
    assert part(DataLoader(DATA, SIZE)) is None
    assert part(loader, metric=lambda model, data: 0.5) is None


def rows(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of so many examples each."""
    return [(torch.randn(size, 4), torch.arange(size) % 3) for size in sizes]


@pytest.mark.parametrize("sizes", [(8, 8, 1), (1, 8, 8), (1, 1, 8, 1)])
def test_batches_of_one_are_left_out_where_norms_are_trained(sizes: tuple[int, ...]) -> None:
    """They are no step of the training, which takes as many as it would have; the loss is asked with another batch."""
    seen = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        value = nn.functional.cross_entropy(model(batch[0]), batch[1])
        seen.append(len(batch[0]))
        return value

    task = task_of(rows(*sizes), loss=loss)
    assert choose_distance(task).name == "softmax over axis 1"
    seen.clear()
    assert steps_of(task, epochs=1) == len(sizes)
    assert seen == [8] * len(sizes)
    assert len(supplies_of(task).statistics[0][0]) > 1


def test_batches_of_one_are_trained_on_where_no_norm_is_in_the_way() -> None:
    """A network without norms, and one whose norms see many positions, take them."""
    seen = []
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 3)).eval()
    data = [(torch.randn(size, 1, 5, 5), torch.arange(size) % 3) for size in (4, 1)]

    def loss(model: nn.Module, batch: Any) -> Tensor:
        seen.append(len(batch[0]))
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    task = Task(network, data[0][0][:1], data, data, loss=loss)
    distil(copy.deepcopy(network), network, task, settings={"weight": 0.0}, epochs=2, seed=0)
    assert sorted(seen) == [1, 1, 4, 4]


def test_data_that_no_norm_can_be_trained_on_are_told() -> None:
    """A loader of single examples would be gone through for ever."""
    task = task_of(rows(1, 1, 1), distance="off")
    with pytest.raises(StudyError, match=r"more than one example.*Give larger batches"):
        steps_of(task, epochs=1)


def test_statistics_of_one_value_a_channel_are_not_taken() -> None:
    """A norm that has seen nothing else keeps its own."""
    from autocompress.compressors.batch_norm import estimate_batch_norm

    network = task_of([]).model
    network[1].running_mean.fill_(3.0)
    estimate_batch_norm(network, [(torch.randn(1, 4),)])
    assert network[1].running_mean.unique().tolist() == [3.0]
    assert not network[1].training
    estimate_batch_norm(network, [(torch.randn(1, 4),), (torch.randn(2, 4),)])
    assert 3.0 not in network[1].running_mean.tolist()
