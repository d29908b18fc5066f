"""The damage of one choice: how many examples it takes, and what is not counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.pipeline import supplies_of
from autocompress.profiles.damage import MOST, PIECE, Damages, divided
from autocompress.spaces.candidate import RANK
from autocompress.spaces.space import Choice
from autocompress.studies.task import Task

pytestmark = pytest.mark.usefixtures("one_thread")

QUARTER = Choice(axis=RANK, target="0", levels=(1.0, 0.25), neutral=1.0)


def normalised(rank: int) -> tuple[nn.Sequential, Task]:
    """Return layers with batch norms between, whose first has a weight of some rank, and inputs of one batch each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.BatchNorm1d(16))
    layer = model[0]
    assert isinstance(layer, nn.Linear)
    layer.weight.data = torch.randn(16, rank) @ torch.randn(rank, 16)
    many = torch.randn(4096, 16)
    for norm in (model[1], model[4]):
        assert isinstance(norm, nn.BatchNorm1d)
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(many)
    batches = [(part, torch.zeros(len(part), dtype=torch.long)) for part in many.split(64)[:4]]
    return model.eval(), Task(model, many[:1], batches, batches)


def test_the_statistics_of_few_examples_are_no_damage() -> None:
    """A choice that changes nothing has no damage, though statistics of a few examples are not those of all."""
    model, task = normalised(rank=4)
    assert Damages(model, supplies_of(task))((QUARTER, 1)) < 1e-6
    full, task = normalised(rank=16)
    assert Damages(full, supplies_of(task))((QUARTER, 1)) > 1e-3


def test_examples_are_added_until_the_damage_is_known() -> None:
    """Where all examples change alike, one piece of them is enough; where they do not, all pieces are compared."""
    model, task = normalised(rank=16)
    batches = [(torch.randn(PIECE, 16),) for _ in range(MOST + 2)]
    damages = Damages(model, replace(supplies_of(task), calibration=batches))
    assert len(damages.batches) == MOST
    seen: list[int] = []

    class Off(nn.Module):
        def __init__(self, spread: float) -> None:
            super().__init__()
            self.spread = spread

        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            outputs: Tensor = model(x)
            return outputs + 1 + self.spread * torch.linspace(0, 1, len(x))[:, None] ** 8

    for spread, pieces in ((0.0, 1), (100.0, MOST)):
        seen.clear()
        assert damages._change(Off(spread)) > 0
        assert seen == [PIECE] * pieces


def test_a_network_of_one_batch_size_gets_batches_as_they_come() -> None:
    """Where the forward fails on a part of a batch, whole batches are compared."""

    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(64, 16)

    batches = [(torch.randn(64, 16),) for _ in range(6)]
    assert [len(x) for (x,) in divided(Fixed(), batches)] == [64] * MOST
    assert [len(x) for (x,) in divided(nn.Identity(), batches)] == [PIECE] * MOST
