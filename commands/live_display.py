"""The live lines at the bottom of a terminal while a study runs, drawn again only when they change."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live as Region
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..search.progress import SearchState, counted, duration

CLOCKS_S = 5.0
"""Seconds between two drawings of the clocks alone: drawing takes the processor from a measurement."""

BAR = 50
"""Columns below which there is no room for a bar."""


class Live:
    """Shows a few live lines on a terminal, each cut to its width, from the first notice on.

    Nothing moves by itself: there is no thread, and a notice that says nothing new draws nothing.

    Args:
        console: the terminal.
        clocks_s: seconds between two drawings of the clocks alone.
    """

    def __init__(self, console: Console, clocks_s: float = CLOCKS_S) -> None:
        self._console = console
        self._clocks_s = clocks_s
        self._shown: tuple[str | SearchState, int] | None = None
        self._drawn = float("-inf")
        self._region = Region(
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
        )

    def notice(self, what: str | SearchState) -> None:
        """Replace the lines if they would change, or if they are older than the clocks may be."""
        lines = (what.still if isinstance(what, SearchState) else what), self._console.width
        if lines == self._shown and time.monotonic() - self._drawn < self._clocks_s:
            return
        self._shown, self._drawn = lines, time.monotonic()
        self._region.update(drawn(what, self._console.width))
        if not self._region.is_started:
            self._region.start()
        self._region.refresh()

    def milestone(self, text: str) -> None:
        """Print a line above the live ones."""
        self._console.print(text, highlight=False, markup=False)

    def warning(self, text: str) -> None:
        """Print a line above the live ones."""
        self.milestone(text)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Take the lines away when the context ends."""
        try:
            yield
        finally:
            self._region.stop()


def drawn(what: str | SearchState, width: int) -> RenderableType:
    """Return the state in a few lines, none wider than the terminal."""
    if not isinstance(what, SearchState):
        return _line("now", what)
    front = f"{counted(what.front, 'model')}, {what.trend}"
    lines = [_line("best", what.best.removeprefix("best ")), _line("front", front)]
    if what.running:
        lines.append(_line("now", _running(what, width)))
    if what.blocked_reason:
        lines.append(_line("", what.blocked_reason))
    return Group(_head(what, width), *lines)


def _head(state: SearchState, width: int) -> RenderableType:
    """Return how many trials are done, with a bar where there is room, and the time that is left."""
    done = f"{state.finished} of {state.total}"
    left = "" if state.left_s is None else f"{duration(state.left_s)} left"
    if width < BAR:
        return _line("trials", " · ".join(filter(None, (done, left))))
    head = Table.grid(padding=(0, 1, 0, 0), expand=True)
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True)
    bar = ProgressBar(total=state.total, completed=min(state.finished, state.total))
    head.add_row(_line("trials", done), bar, Text(left))
    return head


def _running(state: SearchState, width: int) -> str:
    """Return what each running trial does, or where that is too long how many do what."""
    each = " · ".join(map(str, state.running))
    return each if len(each) + 7 < width else f"{counted(len(state.running), 'trial')}: {state.rungs}"


def _line(label: str, text: str) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"{label:<6} ", style="dim")
    return line.append(text)
