"""The report as a page: its data, its scripts and what it holds; a browser opens it in test_browser.py."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

from autocompress.reports.html_page import MOST_POINTS, embedded, render, thinned

from .conftest import ABOUT, Tell

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
