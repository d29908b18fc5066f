"""Scores of single examples: kept in little room, and what they tell of the difference of two models."""

from __future__ import annotations

import math
import zlib
from base64 import b85encode
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from autocompress.errors import RunDirectoryError
from autocompress.evaluators.scores import KEPT_BYTES, accuracy, packed, standard_error, unpacked
from autocompress.studies.task import Loader, Task, top1

BITS = arrays(np.float64, st.integers(1, 300), elements=st.sampled_from([0.0, 1.0]))


@given(BITS)
def test_right_and_wrong_answers_come_back(scores: np.ndarray) -> None:
    """Packing loses nothing of answers that are right or wrong."""
    kept = unpacked(packed(scores))
    assert kept is not None
    assert kept.tolist() == scores.tolist()


@given(arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e3, 1e3)))
def test_other_scores_are_kept_to_three_digits(scores: np.ndarray) -> None:
    """A score is rounded by at most a two-thousandth of the largest."""
    kept = unpacked(packed(scores))
    assert kept is not None
    assert np.abs(kept - scores).max() <= max(1e-300, np.abs(scores).max()) / 2000


def test_scores_take_little_room() -> None:
    """Ten thousand answers are less than two kilobytes; what is too much, or no number, is not kept."""
    rng = np.random.default_rng(0)
    assert len(packed((rng.random(10_000) < 0.9).astype(float))) < 2000
    assert packed(rng.random(10 * KEPT_BYTES)) == ""
    assert packed(np.array([1.0, math.nan])) == ""
    assert unpacked("") is None


@pytest.mark.parametrize("text", ["[9, null] c%1w", "[99999999999, null] c%1w", "nothing", "[3] !", "[-8, 1.0] c%1w"])
def test_scores_that_somebody_else_packed_are_refused(text: str) -> None:
    """What is no packed text, or would become more than it says, is refused."""
    with pytest.raises(RunDirectoryError, match="must hold scores"):
        unpacked(text)


def test_scores_do_not_become_more_than_they_say() -> None:
    """A few bytes that would inflate to many are refused at the stated length."""
    bomb = b85encode(zlib.compress(bytes(10_000_000))).decode()
    with pytest.raises(RunDirectoryError, match="must hold scores"):
        unpacked(f"[80, null] {bomb}")


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(1, 40))
def test_the_standard_error_is_mcnemars(both: int, mine: int, theirs: int, neither: int) -> None:
    """It is of the examples that one of two models alone has right, and so 0 for models that answer alike."""
    one = np.repeat([1.0, 1.0, 0.0, 0.0], [both, mine, theirs, neither])
    other = np.repeat([1.0, 0.0, 1.0, 0.0], [both, mine, theirs, neither])
    n = len(one)
    expected = math.sqrt(mine + theirs - (mine - theirs) ** 2 / n) / n
    assert standard_error(packed(one), packed(other)) == pytest.approx(expected)
    assert standard_error(packed(one), packed(one)) == 0.0
    assert standard_error(packed(one), "") == standard_error(packed(one), packed(np.append(other, 1.0))) == 0.0


def errors(model: nn.Module, loader: Loader) -> Tensor:
    """Return the negative squared error of each example."""
    with torch.no_grad():
        return torch.cat([-(model(inputs) - wanted).square().mean(1) for inputs, wanted in loader])


def task(**changes: Any) -> Task:
    """Return a task whose network is exact except for its last example."""
    inputs = torch.eye(4)
    wanted = inputs.clone()
    wanted[3] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    data = [(inputs[:3], wanted[:3].argmax(1)), (inputs[3:], wanted[3:].argmax(1))]
    return Task(nn.Identity(), inputs[:1], data, data, **changes)


def test_the_default_metric_tells_each_example() -> None:
    """Its mean is the metric, and a metric of the user's own tells one number only."""
    made = task()
    found = accuracy(made.metric, made.each, made.model, made.validation)
    assert found.value == made.metric(made.model, made.validation) == 0.75
    kept = unpacked(found.scores)
    assert kept is not None
    assert kept.tolist() == [1, 1, 1, 0]
    own = task(metric=lambda model, loader: top1(model, loader))
    assert accuracy(own.metric, own.each, own.model, own.validation) == (0.75, "")


def test_scores_of_ones_own_are_the_metric() -> None:
    """A task that tells the score of each example needs no metric beside it: that is their mean."""
    rows = torch.arange(6.0).reshape(3, 2)
    data = [(rows, rows + torch.tensor([[1.0], [0.0], [2.0]]))]
    made = Task(nn.Identity(), rows[:1], data, data, per_example=errors)
    found = accuracy(made.metric, made.each, made.model, made.validation)
    kept = unpacked(found.scores)
    assert kept is not None
    assert kept.tolist() == [-1, 0, -4]
    assert found.value == made.metric(made.model, made.validation) == pytest.approx(-5 / 3)
