"""What the user sees while a study runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from autocompress.search.progress import Lines, Live, State, duration


def state(**changes: object) -> State:
    """Return a state in the middle of a search."""
    fields: dict[str, object] = {
        "finished": 3,
        "total": 40,
        "rungs": ("latency", "train"),
        "best": "best 97.00% at 4.20 ms",
        "hypervolume": 0.1234,
        "left_s": 150.0,
    }
    return State(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_state_says_how_far_it_is() -> None:
    """One line holds the trials, where they are, the best, the hypervolume and the time that is left."""
    assert str(state()) == (
        "3/40 trials · on latency, train · best 97.00% at 4.20 ms · hypervolume 0.123 · 2 min 30 s left"
    )


def test_a_state_leaves_out_what_it_does_not_know() -> None:
    """Before the first trial there is neither a rung nor an estimate."""
    assert str(state(rungs=(), left_s=None)) == "3/40 trials · best 97.00% at 4.20 ms · hypervolume 0.123"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    """The two largest units are given."""
    assert duration(seconds) == words


def test_lines_hold_notices_back() -> None:
    """In a log every milestone is a line, and a notice only the first one and where none was written for a while."""
    written: list[str] = []
    patient = Lines(written.append, every_s=1e6)
    patient.notice("first")
    patient.notice("held back")
    patient.milestone("milestone")
    assert written == ["first", "milestone"]
    hasty = Lines(written.append, every_s=0.0)
    hasty.notice("notice")
    hasty.notice("another")
    assert written == ["first", "milestone", "notice", "another"]


def test_the_living_line_fits_its_terminal() -> None:
    """A notice is cut to the width, a milestone stays in full, and square brackets are no markup."""
    output = io.StringIO()
    live = Live(Console(file=output, force_terminal=True, width=40, color_system=None))
    with live.shown():
        live.notice("x" * 100)
        live.milestone("trial 3 is infeasible: [red] " + "y" * 40)
    text = output.getvalue()
    assert "x" * 36 in text
    assert "x" * 37 not in text
    assert "[red]" in text
    assert text.count("y") == 40
