"""A candidate is data: equal by value, hashable, JSON both ways."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.candidate import Candidate

VALUES = st.integers() | st.floats(allow_nan=False) | st.text()
AXES = st.dictionaries(st.text(), st.dictionaries(st.text(), VALUES, max_size=4), max_size=4)
SMALL = st.dictionaries(
    st.just("a"), st.dictionaries(st.just("x"), st.sampled_from([1, 1.0, "1"]), min_size=1), min_size=1
)
HALF = Candidate({"pruning_ratio": {"conv1": 0.5}, "bits": {"conv1": 8}})


@given(AXES.map(Candidate))
def test_json_brings_every_candidate_back(candidate: Candidate) -> None:
    """`from_json` undoes `to_json`."""
    assert Candidate.from_json(candidate.to_json()) == candidate


@given(AXES.map(Candidate))
def test_pickling_brings_every_candidate_back(candidate: Candidate) -> None:
    """Candidates travel between processes."""
    assert pickle.loads(pickle.dumps(candidate)) == candidate
    assert copy.deepcopy(candidate) == candidate


@given(SMALL.map(Candidate), SMALL.map(Candidate))
def test_equality_hash_text_and_digest_agree(one: Candidate, other: Candidate) -> None:
    """Two candidates are equal exactly when their texts are, and then their hashes and digests are too."""
    assert (one == other) == (one.to_json() == other.to_json()) == (one.digest == other.digest)
    if one == other:
        assert hash(one) == hash(other)


@given(AXES)
def test_order_of_names_does_not_matter(axes: dict[str, dict[str, int | float | str]]) -> None:
    """The same choices in another order are the same candidate."""
    backwards = {axis: dict(reversed(targets.items())) for axis, targets in reversed(axes.items())}
    assert Candidate(axes) == Candidate(backwards)
    assert Candidate(axes).digest == Candidate(backwards).digest


def test_axes_without_targets_say_nothing() -> None:
    """An empty axis is the unchanged network."""
    assert Candidate({"bits": {}}) == Candidate()
    assert dict(HALF["distillation"]) == {}


def test_candidate_is_not_changed_through_what_it_was_made_of() -> None:
    """A candidate keeps a copy of its choices, and hands out views that cannot be written."""
    targets: dict[str, int | float | str] = {"conv1": 8}
    candidate = Candidate({"bits": targets})
    targets["conv1"] = 4
    assert candidate["bits"]["conv1"] == 8
    with pytest.raises(TypeError):
        candidate["bits"]["conv1"] = 4  # type: ignore[index]
    candidate.to_dict()["bits"]["conv1"] = 4
    assert candidate["bits"]["conv1"] == 8


def test_candidate_differs_from_other_types() -> None:
    """A candidate is not equal to its own plain dictionary."""
    assert HALF.to_dict() != HALF


def test_digest_is_the_same_in_every_process() -> None:
    """Names of files do not depend on Python's hash seed."""
    code = f"from autocompress.spaces.candidate import Candidate as C; print(C({HALF.to_dict()!r}).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in "12"
    }
    assert digests == {HALF.digest}
    assert len(HALF.digest) == 12
    assert int(HALF.digest, 16) >= 0


def test_text_is_json() -> None:
    """Other programs can read a candidate."""
    assert json.loads(HALF.to_json()) == {"pruning_ratio": {"conv1": 0.5}, "bits": {"conv1": 8}}
