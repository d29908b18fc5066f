"""The report as Markdown."""

from __future__ import annotations

import re

import pytest

from autocompress.reports.markdown import escaped, summary

from .conftest import Tell


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
