"""The report as a page and as Markdown, as text; a browser opens the page in test_browser.py."""

from __future__ import annotations

import io
import re
from dataclasses import replace

from rich.console import Console

from autocompress.reports.markdown import summary
from autocompress.reports.rows import ExampleCounts
from autocompress.reports.terminal_table import print_table

from .conftest import ABOUT, Tell, as_errors, slower


def test_a_metric_in_decibels_is_told_in_decibels(tell: Tell) -> None:
    """The unit that the task says follows every value and every change, and nothing is called an accuracy or points."""
    told = as_errors(tell())
    told = replace(told, front=replace(told.front, limits=replace(told.front.limits, unit="dB", min_change=-0.3)))
    base, best = told.front.baseline.measurement, told.front.recommended
    assert best is not None
    console = Console(width=140, file=io.StringIO())
    print_table(told.front, "run", console)
    assert isinstance(console.file, io.StringIO)
    about = replace(ABOUT, scored=ExampleCounts())
    printed, summed, page = console.file.getvalue(), summary(told.data(about)), told.front._repr_html_()
    assert best.measurement.test_accuracy is not None
    assert base.test_accuracy is not None
    change = f"{best.measurement.test_accuracy - base.test_accuracy:+.4g} dB in the metric on the test data"
    for text in (printed, summed):
        assert f"{base.accuracy:.4g} dB" in text
        assert change in text
    for text in (printed, summed, page):
        assert "-0.3 dB in the metric" in text
        assert not re.search(r"accurac|points|\.\d+%", text)
    assert told.data()["limits"]["unit"] == "dB"


def test_what_is_slower_is_called_slower(tell: Tell) -> None:
    """A model that is slower and larger than the unchanged network is never so many times faster or smaller."""
    told = slower(tell())
    console = Console(width=140, file=io.StringIO())
    print_table(told.front, "run", console)
    assert isinstance(console.file, io.StringIO)
    for text in (console.file.getvalue(), summary(told.data()), told.front._repr_html_()):
        assert "1.16× slower" in text
        assert not re.search(r"faster|smaller", text)
    for text in (console.file.getvalue(), summary(told.data())):
        assert "2.0× larger" in text


def test_the_unchanged_network_is_recommended_in_words(tell: Tell) -> None:
    """Where no model found is better than the unchanged network, that is said plainly."""
    told = slower(tell())
    worse = replace(told.front.models[0].measurement, accuracy=0.1)
    told = replace(told, front=replace(told.front, models=(replace(told.front.models[0], measurements=(worse,)),)))
    assert told.front.recommended is told.front.baseline
    console = Console(width=140, file=io.StringIO())
    print_table(told.front, "run", console)
    assert isinstance(console.file, io.StringIO)
    assert "→ The unchanged network meets 1000 ms: no model found is better." in console.file.getvalue()
    assert "no model found is better than the unchanged network" in summary(told.data())


def test_a_metric_that_is_no_share_is_shown_as_the_number_that_it_is(tell: Tell) -> None:
    """A negative error, or decibels, are no per cent: in the table, in Markdown and in a notebook."""
    told = as_errors(tell())
    base, best = told.front.baseline.measurement, told.front.recommended
    assert best is not None
    console = Console(width=140, file=io.StringIO())
    print_table(told.front, "run", console)
    assert isinstance(console.file, io.StringIO)
    summed = summary(told.data())
    for text in (console.file.getvalue(), summed.replace("\\", ""), told.front._repr_html_()):
        assert f"{base.accuracy:.4g}" in text
        assert not re.search(r"\d %?%|points", text.replace("95 %", "").replace("width:100%", ""))
    assert f"{best.measurement.test_accuracy - base.test_accuracy:+.4g} in the metric" in console.file.getvalue()  # type: ignore[operator]
    assert f"{told.front.baseline.measurement.accuracy:.2%}" not in summed
