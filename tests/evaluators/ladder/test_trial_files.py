"""What the ladder reports about a candidate that failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.pipeline import supplies_of
from autocompress.evaluators import runtimes
from autocompress.evaluators.evaluator import Host, Request
from autocompress.evaluators.ladder.ladder import Ladder
from autocompress.evaluators.measurement import Infeasible
from autocompress.spaces.candidate import Candidate
from autocompress.studies.task import Batch, Task

BY_GRADIENTS = Candidate({"pruning_ratio": {"0": 0.5}, "pruning": {"importance": "taylor"}})


def mistaken(model: nn.Module, batch: Batch) -> Tensor:
    """Raise what torch raises where a label does not exist."""
    model(batch[0])
    raise RuntimeError("index 7 is out of bounds\nfor dimension 1 with size 2")


def ended(folder: Path, loss: Any = mistaken, *, model: nn.Module | None = None) -> Infeasible:
    """Return why a candidate that needs gradients cannot be built; with another network, one that needs none."""
    data = [(torch.randn(8, 4), torch.arange(8) % 2)]
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    task = Task(network, torch.ones(1, 4), data, data)
    supplies = replace(supplies_of(task), loss=loss)
    task = replace(task, loss=loss, model=model or network)
    ladder = Ladder(task, supplies, [runtimes.load("onnxruntime")])
    candidate = BY_GRADIENTS if model is None else Candidate()
    outcome = ladder.evaluate(Request(folder="trials/00001", candidate=candidate, epochs=1.0), Host(folder=folder))
    assert isinstance(outcome, Infeasible)
    return outcome


def test_an_error_of_the_users_own_keeps_its_traceback(tmp_path: Path) -> None:
    """A RuntimeError in a task's loss is reported as one, and its traceback is written down."""
    outcome = ended(tmp_path)
    assert (
        outcome.reason
        == "RuntimeError: index 7 is out of bounds (raised in the task's `loss`; test_trial_files.py:27 in mistaken)"
    )
    written = (tmp_path / "trials" / "00001" / "error.txt").read_text()
    assert "in mistaken" in written
    assert "for dimension 1 with size 2" in written


class Hungry(nn.Module):
    """Needs more memory than there is."""

    def forward(self, x: Tensor) -> Tensor:
        """Ask for it."""
        return x.new_empty(2**45)


@pytest.mark.parametrize("where", ["loss", "model"])
def test_a_lack_of_memory_is_told_as_that(tmp_path: Path, where: str) -> None:
    """Not as a network that cannot be built, nor as a defect, wherever torch asked for the memory."""
    if where == "loss":
        outcome = ended(tmp_path, lambda model, batch: Hungry()(batch[0]).sum())
    else:
        outcome = ended(tmp_path, model=Hungry())
    assert outcome.reason == "it does not fit into memory"
