"""How much data a trial looks at where it does not train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors import supplies
from autocompress.compressors.modules import work
from autocompress.compressors.pipeline import supplies_of
from autocompress.compressors.supplies import GRADIENTS, RANGES, STATISTICS, divided
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

from .samples import batches


@pytest.fixture
def task() -> Task:
    """Return a task with a small residual network."""
    model = ResidualNet((8, 16), (1, 1), classes=2).eval()
    return Task(model=model, example_inputs=torch.ones(1, 1, 8, 8), train=batches(8), validation=batches(2))


def examples(inputs: Sequence[tuple[Tensor, ...]]) -> list[int]:
    """Return how many examples each of some batches has."""
    return [len(batch[0]) for batch in inputs]


@pytest.mark.parametrize("size", [1, 5, 32, 300])
def test_data_are_counted_by_examples(task: Task, size: int) -> None:
    """Statistics, ranges and gradients see as many examples whatever the size of a batch, none of them in ones."""
    images, labels = torch.randn(1500, 1, 8, 8), torch.randint(0, 2, (1500,))
    task = replace(task, train=list(zip(images.split(size), labels.split(size), strict=True)))
    found = supplies_of(task)
    statistics, calibration = examples(found.statistics), examples(found.calibration)
    assert STATISTICS <= sum(statistics) < STATISTICS + max(size, 200)
    assert sum(calibration) >= RANGES
    assert calibration == statistics[: len(calibration)]
    assert min(statistics) >= min(32, size)
    assert min(statistics[:-1]) >= 32
    gradients = [len(labels) for _, labels in found.batches]
    assert sum(gradients) >= GRADIENTS
    assert len(gradients) >= 16
    assert max(gradients) <= 16


def test_few_data_are_taken_whole(task: Task) -> None:
    """Where there are fewer examples than are wanted, all of them are looked at, once."""
    found = supplies_of(task)
    assert sum(examples(found.statistics)) == sum(examples(found.calibration)) == 8 * 16
    assert sum(len(labels) for _, labels in found.batches) == 8 * 16


def test_a_costly_network_is_run_on_fewer_examples(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trial spends beside its training is bounded by the network's size; a few batches are taken in any case."""
    task = replace(task, train=batches(50))
    macs = sum(work(task.model, task.examples).values())
    for most, least in ((100, 112), (1, 64)):
        monkeypatch.setattr(supplies, "MACS", most * macs)
        found = supplies_of(task)
        assert sum(examples(found.statistics)) == least
        assert sum(len(labels) for _, labels in found.batches) == least


def test_a_network_that_takes_one_size_of_batch_gets_it() -> None:
    """Small batches are put together only where the network takes larger ones."""

    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.layer(x.reshape(1, 4))
            return made

    data = [(torch.randn(1, 4), torch.zeros(1).long()) for _ in range(40)]
    assert set(examples(supplies_of(Task(Single(), torch.ones(1, 4), data, data)).statistics)) == {1}
    assert examples(supplies_of(Task(nn.Linear(4, 2), torch.ones(1, 4), data, data)).statistics) == [32, 8]


def test_a_batch_is_divided_where_all_its_parts_can_be() -> None:
    """The parts are of the batch's own kinds; a graph, whose tensors have no dimension in common, stays whole."""
    x, y = torch.arange(40), torch.arange(40) % 3
    for batch in ((x, y), [x, y], {"input": x, "labels": y}, ({"input": x}, y)):
        parts = divided(batch)
        assert [type(part) for part in parts] == [type(batch)] * 3
    assert torch.equal(torch.cat([part["labels"] for part in divided({"input": x, "labels": y})]), y)
    graph = ((torch.ones(34, 5), torch.ones(2, 60)), torch.ones(34))
    assert divided(graph)[0] is graph
    assert len(divided((x, y, 0.5))) == 1
