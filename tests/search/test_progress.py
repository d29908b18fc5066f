"""What the user sees while a study runs."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from autocompress.commands.live_display import Live, drawn
from autocompress.search.progress import Lines, Running, SearchState, Throttled, duration

RUNNING = (Running("00003", "latency", 4.0), Running("00004", "train", 62.0))


def state(**changes: object) -> SearchState:
    """Return a state in the middle of a search."""
    fields: dict[str, object] = {
        "finished": 3,
        "total": 40,
        "running": RUNNING,
        "best": "best 97.00% at 4.20 ms",
        "front": 2,
        "hypervolume": 0.1234,
        "unchanged": 1,
        "left_s": 150.0,
    }
    return SearchState(**{**fields, **changes})  # type: ignore[arg-type]


def terminal(width: int) -> tuple[Console, io.StringIO]:
    """Return a terminal without colours, and what is written to it."""
    output = io.StringIO()
    return Console(file=output, force_terminal=True, width=width, color_system=None), output


def lines(what: str | SearchState, width: int) -> list[str]:
    """Return what is drawn at a width."""
    output = io.StringIO()
    Console(file=output, width=width).print(drawn(what, width))
    return output.getvalue().splitlines()


def test_a_state_says_how_far_it_is() -> None:
    """One line holds the trials, where they are, the best, how the front does and the time that is left."""
    assert str(state()) == (
        "3/40 trials · on latency, train · best 97.00% at 4.20 ms · hypervolume 0.123, no better for 1 trial · "
        "2 min 30 s left"
    )


def test_a_state_leaves_out_what_it_does_not_know() -> None:
    """Before the first trial there is neither a rung nor an estimate."""
    assert str(state(running=(), left_s=None, unchanged=0)) == (
        "3/40 trials · best 97.00% at 4.20 ms · hypervolume 0.123"
    )


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


def test_a_search_in_eighty_columns() -> None:
    """Trials with a bar and the time left, the best, the front with its trend, and what each worker is at."""
    head, *rest = (
        line.rstrip() for line in lines(state(blocked_reason="measuring waits for a node that offers jetson"), 80)
    )
    assert re.fullmatch(r"trials 3 of 40 ━[━╸╺]+ *2 min 30 s left", head)
    assert len(head) == 80
    assert rest == [
        "best   97.00% at 4.20 ms",
        "front  2 models, hypervolume 0.123, no better for 1 trial",
        "now    00003 latency 4 s · 00004 train 1 min 2 s",
        "       measuring waits for a node that offers jetson",
    ]


@pytest.mark.parametrize("width", [120, 80, 60, 40, 24])
def test_no_line_is_wider_than_its_terminal(width: int) -> None:
    """What is too long is cut, and many trials are counted instead of listed; no line ever becomes two."""
    many = tuple(Running(f"{number:05d}", ("train", "latency")[number % 2], 3600.0) for number in range(12))
    found = lines(state(running=many, best="none meets 5 ms, 4 MB yet, nearest " + "x" * 100), width)
    assert len(found) == 4
    assert max(map(len, found)) <= width
    assert found[-1].startswith("now    12 trials: 6 ×")


def test_a_terminal_that_becomes_narrow_is_drawn_anew() -> None:
    """The next notice fits the new width, even where it tells nothing new."""
    console, output = terminal(80)
    live = Live(console, clocks_s=1e6)
    with live.shown():
        live.notice(state())
        console.width = 30
        before = output.tell()
        live.notice(state())
        text = output.getvalue()[before:]
    drawn = [re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]|\r", "", line) for line in text.split("\n")]
    assert any(line.startswith("trials 3 of 40 · ") for line in drawn)
    assert max(map(len, drawn)) <= 30


def test_nothing_is_drawn_that_tells_nothing_new() -> None:
    """While only clocks have moved nothing is written, for a while; a trial that finished is seen at once."""
    console, output = terminal(80)
    live = Live(console, clocks_s=1e6)
    with live.shown():
        live.notice(state())
        before = output.tell()
        live.notice(state(left_s=100.0, running=(Running("00003", "latency", 9.0), Running("00004", "train", 67.0))))
        assert output.tell() == before
        live.notice(state(finished=4))
        assert "4 of 40" in output.getvalue()[before:]


def test_clocks_go_on_now_and_then() -> None:
    """After a while the time that is left is drawn again although nothing else has changed."""
    console, output = terminal(80)
    live = Live(console, clocks_s=0.0)
    with live.shown():
        live.notice(state())
        live.notice(state(left_s=100.0))
    assert "1 min 40 s left" in output.getvalue()


def test_a_milestone_stays_in_full() -> None:
    """It is longer than the terminal is wide, square brackets are no markup, and the live lines stay below it."""
    console, output = terminal(40)
    live = Live(console)
    with live.shown():
        live.notice("x" * 100)
        live.milestone("trial 3 is infeasible: [red] " + "y" * 40)
    text = output.getvalue()
    assert "x" * 32 + "…" in text
    assert "x" * 34 not in text
    assert "[red]" in text
    assert text.count("y") == 40


def test_now_and_then_takes_a_hundredth_of_the_time() -> None:
    """It waits for its turn, and the longer it took the longer it waits for the next."""
    now, calls = [0.0], []

    def action() -> None:
        calls.append(now[0])
        now[0] += 3.0

    act = Throttled(action, every_s=10.0, clock=lambda: now[0])
    while now[0] < 1000:
        act()
        now[0] += 1.0
    assert calls == [10.0, 313.0, 616.0, 919.0]
