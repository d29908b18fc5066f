"""Networks whose weights candidates start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compressors.inherited_weights import Ancestor
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.prune import beyond
from autocompress.compressors.quantization.quantize import Quantized
from autocompress.spaces.candidate import Candidate
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

from .samples import batches


@pytest.fixture(scope="module")
def task() -> Task:
    """Return a task that is learned in a few steps: which half of an image is bright."""
    torch.manual_seed(0)
    data = batches(8)
    return Task(ResidualNet((16, 32), (1, 1), classes=2).eval(), data[0][0][:1], data, data)


def at(ratio: float, **axes: dict[str, int]) -> Candidate:
    """Return the candidate that prunes two groups alike."""
    return Candidate({"pruning_ratio": {"stem.0": ratio, "stages.1.0.conv1": ratio}, **axes})


def width(model: nn.Module, name: str) -> int:
    """Return how many channels a layer gives."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return len(weight)


def test_a_narrower_candidate_goes_on_from_trained_weights(task: Task) -> None:
    """Without training of its own it is as narrow as asked, and already better than from the untrained original."""
    supplies = supplies_of(task)
    trained = apply_candidate(task, at(0.25), supplies, epochs=6).ancestor
    assert trained is not None
    narrower = at(0.5, bits={"head": 8})
    heir = apply_candidate(task, narrower, supplies, epochs=0, ancestor=trained)
    alone = apply_candidate(task, narrower, supplies, epochs=0)
    assert width(heir.plain, "stem.0") == width(alone.plain, "stem.0") == 8
    assert heir.params == alone.params
    assert task.metric(heir.model, task.validation) > task.metric(alone.model, task.validation) + 0.1


def test_same_channels_are_handed_on(task: Task) -> None:
    """A candidate that differs in its numbers alone has exactly the ancestor's weights before it is trained."""
    supplies = supplies_of(task)
    first = apply_candidate(task, at(0.5), supplies, epochs=1)
    assert first.ancestor is not None
    heir = apply_candidate(task, at(0.5), supplies, epochs=0, ancestor=first.ancestor)
    assert all(torch.equal(value, heir.state()[name]) for name, value in first.state().items())


def test_inherited_shapes_are_trained_in_float_before_numbers_change(task: Task) -> None:
    """Of an heir that differs in its bits alone four fifths of the training are in float, as of its ancestor's."""
    supplies, seen = supplies_of(task), []
    ancestor = apply_candidate(task, at(0.5), supplies, epochs=0.25).ancestor

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        seen.append((epochs, any(isinstance(module, Quantized) for module in student.modules())))

    heir = apply_candidate(replace(task, fit=fit), at(0.5, bits={"head": 8}), supplies, epochs=1.0, ancestor=ancestor)
    assert seen == [(0.8, False), (pytest.approx(0.2), True)]
    assert heir.ancestor is not None


def test_other_layers_are_nobodys_ancestors(task: Task) -> None:
    """A factorised network cannot be built by pruning alone, so no candidate starts from it."""
    candidate = Candidate({"rank": {"stages.1.0.conv2": 0.25}})
    assert apply_candidate(task, candidate, supplies_of(task), epochs=0.25).ancestor is None


def test_file_is_read_back_or_not_at_all(task: Task, tmp_path: Path) -> None:
    """A whole file gives the same ancestor, a missing or broken one gives none."""
    ancestor = Ancestor.of(at(0.5), task.model)
    assert ancestor is not None
    path = tmp_path / "a.safetensors"
    assert Ancestor.read(path) is None
    path.write_bytes(ancestor.to_bytes()[:-1])
    assert Ancestor.read(path) is None
    path.write_bytes(ancestor.to_bytes())
    again = Ancestor.read(path)
    assert again is not None
    assert again.candidate == ancestor.candidate
    assert all(torch.equal(again.state[name], value) for name, value in ancestor.state.items())


@given(st.integers(2, 128), st.data())
def test_pruning_goes_on_where_it_ended(channels: int, data: st.DataObject) -> None:
    """What remains of a candidate's pruning after another's leads to exactly the candidate's width."""
    model = nn.Sequential(nn.Linear(2, channels))
    first = data.draw(st.integers(1, channels))
    last = data.draw(st.integers(1, first))
    done, wanted = (Candidate({"pruning_ratio": {"0": 1 - kept / channels}}) for kept in (first, last))
    ratio = float(beyond(wanted, done, model)["pruning_ratio"].get("0", 0.0))
    assert max(1, round(first * (1 - ratio))) == last
