"""The space: a two-way street between candidates and points."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.spaces.candidate import Candidate
from autocompress.spaces.space import Choice, Conflict, Space

VALUES = st.integers(0, 64) | st.floats(0.0, 1.0) | st.text(max_size=3)


@st.composite
def choices(draw: st.DrawFn, target: str) -> Choice:
    """Draw a choice on one target, whose neutral value is one of its levels, or that has none."""
    levels = tuple(draw(st.lists(VALUES, min_size=1, max_size=5, unique=True)))
    neutral = draw(st.sampled_from([None, *levels]))
    return Choice(axis=draw(st.sampled_from("ab")), target=target, levels=levels, neutral=neutral)


SPACES = st.integers(0, 5).flatmap(lambda n: st.tuples(*(choices(f"layer{i}") for i in range(n)))).map(Space)


@st.composite
def spaces_with_a_point(draw: st.DrawFn) -> tuple[Space, dict[str, int]]:
    """Draw a space and a point in it."""
    space = draw(SPACES)
    return space, {name: draw(st.integers(0, size - 1)) for name, size in space.sizes.items()}


BITS = Choice(axis="bits", target="conv1", levels=(32, 8), neutral=32)
RATIO = Choice(axis="pruning_ratio", target="conv1", levels=(0.0, 0.25, 0.5), neutral=0.0)
RATE = Choice(axis="distillation", target="learning_rate", levels=(1e-3, 3e-4))
SPACE = Space((BITS, RATIO, RATE))


@given(spaces_with_a_point())
def test_levels_undo_candidate(drawn: tuple[Space, dict[str, int]]) -> None:
    """A point's candidate lies at that point."""
    space, point = drawn
    assert space.levels(space.candidate(point)) == point


@given(spaces_with_a_point())
def test_candidate_holds_what_its_point_names(drawn: tuple[Space, dict[str, int]]) -> None:
    """A candidate states a choice's level, and leaves a neutral one out."""
    space, point = drawn
    candidate = space.candidate(point)
    for choice in space.choices:
        value = choice.levels[point[choice.name]]
        stated = candidate[choice.axis].get(choice.target)
        assert stated == (None if value == choice.neutral else value)


def test_a_conflict_ends_in_the_next_milder_level() -> None:
    """Beside a level that it cannot go with, a level gives way as far as it must; the space is named the same."""
    bits = replace(BITS, levels=(32, 8, 4))
    four = Conflict(choice=bits.name, level=4, other=RATIO.name, beside=(0.25, 0.5))
    eight = Conflict(choice=bits.name, level=8, other=RATIO.name, beside=(0.5,))
    space = Space((bits, RATIO, RATE), (eight, four))

    def taken(ratio: int, level: int) -> object:
        return space.candidate({RATIO.name: ratio, bits.name: level})["bits"].get("conv1", 32)

    assert [[taken(ratio, level) for level in range(3)] for ratio in range(3)] == [[32, 8, 4], [32, 8, 8], [32] * 3]
    assert space.fingerprint == Space(space.choices).fingerprint
    assert replace(space, choices=(bits, RATE)).candidate({bits.name: 2})["bits"]["conv1"] == 4


def test_a_choice_that_means_nothing_is_not_made() -> None:
    """Beside a level that leaves nothing to choose, a choice takes its first level, and no other gives way to it."""
    gone = Choice(axis="depth", target="block", levels=("kept", "gone"), neutral="kept")
    moot = [Conflict(choice=choice.name, other=gone.name, beside=("gone",)) for choice in (RATIO, BITS)]
    wide = replace(BITS, target="wide")
    eight = Conflict(choice=wide.name, level=8, other=RATIO.name, beside=(0.5,))
    space = Space((gone, BITS, wide, RATIO, RATE), (*moot, eight))
    everything = dict.fromkeys((BITS.name, wide.name), 1) | {RATIO.name: 2}
    assert "bits" in space.candidate(everything).axes
    without = space.candidate({**everything, gone.name: 1})
    assert {axis: dict(without[axis]) for axis in ("depth", "bits", "pruning_ratio")} == {
        "depth": {"block": "gone"},
        "bits": {"wide": 8},
        "pruning_ratio": {},
    }


def test_unnamed_choices_take_their_first_level() -> None:
    """A point may leave out what stays mild; settings without a neutral value are stated all the same."""
    assert SPACE.candidate({}) == Candidate({"distillation": {"learning_rate": 1e-3}})
    assert SPACE.levels(Candidate()) == {"bits:conv1": 0, "pruning_ratio:conv1": 0, "distillation:learning_rate": 0}


def test_absent_target_lies_at_the_neutral_level() -> None:
    """The unchanged network is found where the neutral value stands, first or not."""
    space = Space((Choice(axis="bits", target="conv1", levels=(8, 32), neutral=32),))
    assert space.levels(Candidate()) == {"bits:conv1": 1}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"bits": {"conv1": 4}}, r"bits:conv1 must be one of \(32, 8\), got 4"),
        ({"pruning_ratio": {"conv1": 0.3}}, "pruning_ratio:conv1 must be one of"),
        ({"bits": {"conv2": 8}}, "no choice bits:conv2"),
        ({"rank": {"conv1": 8}}, "no choice rank:conv1"),
    ],
)
def test_what_is_not_offered_is_refused(axes: dict[str, dict[str, Any]], message: str) -> None:
    """A foreign value, target or axis is an error that names it."""
    with pytest.raises(ValueError, match=message):
        SPACE.levels(Candidate(axes))


@pytest.mark.parametrize(
    "changed",
    [
        replace(BITS, axis="rank"),
        replace(BITS, target="conv2"),
        replace(BITS, levels=(32, 8, 4)),
        replace(BITS, levels=(8, 32)),
        replace(BITS, neutral=None),
    ],
)
def test_fingerprint_changes_with_every_field_of_a_choice(changed: Choice) -> None:
    """A run directory can tell that its space is another."""
    assert Space((changed, RATIO, RATE)).fingerprint != SPACE.fingerprint


def test_fingerprint_names_the_space() -> None:
    """Equal spaces have equal fingerprints; a choice more or less changes it."""
    assert Space((BITS, RATIO, RATE)).fingerprint == SPACE.fingerprint
    assert Space((BITS, RATIO)).fingerprint != SPACE.fingerprint


@given(spaces_with_a_point())
def test_at_asks_every_choice(drawn: tuple[Space, dict[str, int]]) -> None:
    """`at` builds the candidate from what is picked for each choice."""
    space, point = drawn
    assert space.at(lambda choice: point[choice.name]) == space.candidate(point)


def test_on_yields_one_axis() -> None:
    """Choices can be taken by their axis."""
    assert list(SPACE.on("bits")) == [BITS]
    assert list(SPACE.on("rank")) == []
