"""What a training sees of the data."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset

from autocompress.compressors.batches import Endless, batches_in
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.errors import StudyError
from autocompress.spaces.candidate import Candidate
from autocompress.studies.distance import Softmax
from autocompress.studies.random_states import seeded
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Batch, Loader, Task
from autocompress.studies.training import Shuffled

SIZE, BATCH = 96, 4


def images() -> tuple[Tensor, Tensor]:
    """Return images that are told apart by their first pixel, and labels."""
    pixels = torch.randn(SIZE, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels[:, 0, 0, 0] = torch.arange(SIZE) / SIZE
    return pixels, torch.arange(SIZE) % 2


def in_order() -> list[Batch]:
    """Return a plain list of batches."""
    return list(zip(*(part.split(BATCH) for part in images()), strict=True))


class Stream(IterableDataset[Any]):
    """Examples one after the other, from a file say; nobody knows how many."""

    def __iter__(self) -> Iterator[Any]:
        """Yield them."""
        return zip(*images(), strict=True)


LOADERS: dict[str, Loader] = {
    "list": in_order(),
    "loader": DataLoader(TensorDataset(*images()), BATCH),
    "loader that shuffles": DataLoader(TensorDataset(*images()), BATCH, shuffle=True),
    "with a generator": DataLoader(TensorDataset(*images()), BATCH, shuffle=True, generator=torch.Generator()),
    "sampler with a generator": DataLoader(
        TensorDataset(*images()), BATCH, sampler=RandomSampler(range(SIZE), generator=torch.Generator())
    ),
    "from memory": Shuffled(*images(), batch_size=BATCH),
    "batches as items": DataLoader(in_order(), batch_size=None),  # type: ignore[arg-type]
}


@pytest.fixture(params=LOADERS)
def train(request: pytest.FixtureRequest) -> Loader:
    """Return every kind of training data in turn."""
    return LOADERS[request.param]


def examples(batches: Iterator[Batch] | list[Batch]) -> list[int]:
    """Return which examples are in batches, in order."""
    return [round(float(pixel) * SIZE) for inputs, _ in batches for pixel in inputs[:, 0, 0, 0]]


def drawn(train: Loader, seed: int, count: int) -> list[int]:
    """Return the first examples of a stream."""
    with seeded(seed):
        return examples(list(islice(Endless(train), count)))


def test_a_stream_repeats_itself_for_a_seed_alone(train: Loader) -> None:
    """A seed decides what is seen, whatever was drawn before; another seed sees something else from the start."""
    once, other = drawn(train, 1, 6), drawn(train, 2, 6)
    torch.rand(1)
    next(iter(train))
    assert drawn(train, 1, 6) == once
    assert set(once) != set(other)
    assert once[:BATCH] != other[:BATCH]


def test_a_pass_holds_everything_once_and_the_next_has_another_order(train: Loader) -> None:
    """Passes follow each other without an end."""
    both = drawn(train, 3, 2 * SIZE // BATCH)
    first, second = both[:SIZE], both[SIZE:]
    assert sorted(first) == sorted(second) == list(range(SIZE))
    assert first != second


def test_batches_of_a_list_stay_whole() -> None:
    """Only their order is drawn; what somebody put together stays together."""
    seen = drawn(LOADERS["list"], 0, SIZE // BATCH)
    assert all(seen[i : i + BATCH] == list(range(seen[i], seen[i] + BATCH)) for i in range(0, SIZE, BATCH))


def test_what_has_no_length_comes_as_it_gives_itself() -> None:
    """A stream of examples is gone through in its own order, again and again."""
    loader: Loader = DataLoader(Stream(), BATCH)
    assert drawn(loader, 5, 2 * SIZE // BATCH) == [*range(SIZE), *range(SIZE)]


@pytest.mark.parametrize("loader", [[], DataLoader(TensorDataset(torch.zeros(3, 1)), 4, drop_last=True)])
def test_a_pass_without_a_batch_is_told(loader: Loader) -> None:
    """Training on nothing would never end."""
    with pytest.raises(StudyError, match="gave none"):
        next(Endless(loader))


def test_batches_are_counted_with_and_without_a_length() -> None:
    """What does not tell its length is gone through once."""

    class Own:
        def __iter__(self) -> Iterator[Batch]:
            return iter(in_order())

    assert batches_in(LOADERS["list"]) == batches_in(Own()) == SIZE // BATCH


PRUNED = {"pruning_ratio": {"stem.0": 0.5}}
CANDIDATES = {
    "one phase": Candidate(PRUNED),
    "four steps": Candidate(PRUNED | {"pruning": {"steps": 4}}),
    "penalty and steps": Candidate(PRUNED | {"pruning": {"steps": 2, "penalty": "l1"}}),
    "steps and INT8": Candidate(PRUNED | {"pruning": {"steps": 4}, "bits": {"head": 8}}),
    "penalty, steps and INT8": Candidate(PRUNED | {"pruning": {"steps": 4, "penalty": "group"}, "bits": {"head": 8}}),
}


class Seen:
    """A loss that remembers which examples it was given."""

    def __init__(self, task: Task) -> None:
        self._loss = task.loss
        self.batches: list[Batch] = []

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the task's loss."""
        self.batches.append(batch)
        return self._loss(model, batch)


def seen(train: Loader, candidate: Candidate, *, epochs: float, seed: int) -> list[int]:
    """Return the examples that the training of a candidate sees, in order."""
    network = ResidualNet((8, 16), (1, 1), classes=2).eval()
    data = {"train": train, "validation": in_order()}
    task = Task(
        model=network, example_inputs=torch.ones(1, 1, 8, 8), distance=Softmax(), **data
    )  # else the loss is asked
    supplies = supplies_of(task)
    loss = Seen(task)
    object.__setattr__(task, "loss", loss)
    apply_candidate(task, candidate, supplies, epochs=epochs, seed=seed)
    return examples(loss.batches)


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize("loader", ["list", "from memory"])
def test_all_phases_of_a_candidate_see_one_stream(loader: str, name: str) -> None:
    """However a training is divided, it sees as many different examples as it takes steps, until it has seen all."""
    part = seen(LOADERS[loader], CANDIDATES[name], epochs=0.75, seed=1)
    assert len(set(part)) == len(part) > SIZE // 2
    whole = seen(LOADERS[loader], CANDIDATES[name], epochs=1.25, seed=1)
    assert set(whole) == set(range(SIZE))


def test_two_seeds_train_on_different_parts(train: Loader) -> None:
    """What a short training leaves out is another part for another trial, and the same one for the same seed."""
    one, same, other = (seen(train, CANDIDATES["four steps"], epochs=0.3, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert set(one) != set(other)


def test_a_training_of_ones_own_draws_anew_in_each_phase() -> None:
    """`fit` has its own loader: each phase shuffles it otherwise, and a seed repeats all of them."""
    drawn: list[list[float]] = []

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        drawn.append([*torch.rand(2).tolist(), random.random(), float(np.random.rand())])

    network = ResidualNet((8, 16), (1, 1), classes=2).eval()
    task = Task(network, torch.ones(1, 1, 8, 8), in_order(), in_order(), fit=fit)
    for seed in (1, 1, 2):
        apply_candidate(task, CANDIDATES["four steps"], supplies_of(task), epochs=1, seed=seed)
    phases = len(drawn) // 3
    one, same, other = drawn[:phases], drawn[phases : 2 * phases], drawn[2 * phases :]
    assert one == same
    numbers = [number for phase in (*one, *other) for number in phase]
    assert len(set(numbers)) == len(numbers)
