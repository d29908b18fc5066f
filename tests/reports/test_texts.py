"""The report as a page and as Markdown, as text; a browser opens the page in test_browser.py."""

from __future__ import annotations

import io
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from autocompress.reports.html_page import MOST_POINTS, embedded, render, thinned
from autocompress.reports.markdown import escaped, summary
from autocompress.reports.rows import ExampleCounts
from autocompress.reports.terminal_table import print_table
from autocompress.search.throttle import Throttled

from .conftest import ABOUT, Tell, as_errors, slower

EVIL = "</script><script>window.hit = 1</script><!-- \u2028 & 'x'"


def test_data_survives_the_page(tell: Tell) -> None:
    """What stands in the page is JSON that reads back equal; nothing of it can end its script element."""
    text = embedded({"name": EVIL, "one": [1.5, None]})
    assert json.loads(text) == {"name": EVIL, "one": [1.5, None]}
    assert not set("<>&\u2028\u2029") & set(text)


def test_a_page_has_three_scripts_whatever_a_study_is_called(tell: Tell) -> None:
    """A name with markup is in the page's title and data as text; scripts that may run are named by their digest."""
    data = tell(20).data(replace(ABOUT, study={**ABOUT.study, "study": EVIL}))
    page = render(data)
    assert "window.hit = 1</script>" not in page
    assert len(re.findall(r"<script\b[^>]*>", page.split("</head>")[1])) - page.count('"<script') >= 3
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert not re.search(r'\b(src|href)="(?!#|data:)', page.split("</head>")[0])


def test_thousands_of_trials_are_thinned_evenly(tell: Tell) -> None:
    """The front and baselines are all kept, the rest evenly taken; the page says how many it shows."""
    data = tell(5000, layers=20, target_ms=3.0).data(quick=True)
    shown = thinned(data)
    assert len(shown["points"]) <= MOST_POINTS
    kept = {point["key"] for point in shown["points"]}
    assert {p["key"] for p in data["points"] if p["kind"] in ("front", "obvious", "baseline")} <= kept
    numbers = sorted(p["trial"] for p in shown["points"])
    assert max(b - a for a, b in itertools.pairwise(numbers)) < 100
    assert "of 5,000 models and trials" in shown["shown"]
    assert len(json.dumps(shown["points"])) < 4_000_000
    assert thinned(tell(20).data())["shown"] == ""


def test_the_summary_is_a_table_that_github_renders(tell: Tell) -> None:
    """The headline names the recommended model, every row has as many cells as the head, and warnings are an alert."""
    told = tell()
    text = summary(told.data())
    best = told.front.recommended
    assert best is not None
    assert f"**{best.id} meets it**: " in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert len(rows) == 2 + len({m.id for m in (told.front.baseline, *told.front.references, *told.front.models)})
    assert "> [!WARNING]" in text


@pytest.mark.parametrize("how", [{"count": 1}, {"target_ms": 0.5}, {"ended": False}], ids=str)
def test_the_summary_tells_of_any_run(how: dict[str, float], tell: Tell) -> None:
    """Without a model that meets the target it says so, and why."""
    text = summary(tell(**how).data())
    assert ("meets it**" in text) == ("ended" in how)


def test_names_are_no_markup() -> None:
    """What Markdown or GitHub would read as markup is escaped, and a name stays on its line."""
    shown = escaped("a|b <b>*bold*</b>\n# @somebody [link](x) `code`")
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)[|<>*\[\]`]", shown)
    assert "@somebody" not in shown


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


def test_the_pages_sources_are_packaged() -> None:
    """Every file beside the modules of the report is named as package data."""
    import tomllib

    root = Path(__file__).parents[2]
    with (root / "pyproject.toml").open("rb") as file:
        patterns = tomllib.load(file)["tool"]["setuptools"]["package-data"]["autocompress.reports"]
    folder = root / "reports"
    named = {path for pattern in patterns for path in folder.glob(pattern)}
    found = {path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert found == named


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


def test_a_latency_of_one_window_is_not_known_to_infinity_per_cent(tell: Tell) -> None:
    """What has no interval is reported in words."""
    told = tell()
    best = told.front.recommended
    assert best is not None
    latency = replace(best.measurement.latency, windows=best.measurement.latency.windows[:1])
    models = (replace(best, measurements=(replace(best.measurement, latency=latency),)),)
    warnings = replace(told, front=replace(told.front, models=models)).data()["warnings"]
    assert f"Model {best.id}: the uncertainty of the latency is unknown." in warnings
    assert not any("inf" in warning for warning in warnings)
