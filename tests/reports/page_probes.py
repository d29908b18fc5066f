"""What the tests ask of the page in a browser: JavaScript, and functions that read the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

FOCUSABLE = "'button, select, input, summary, a[href], [tabindex=\"0\"]'"

CONTRAST = """() => {
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const rgb = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number);
    return found[3] === 0 ? null : found;
  };
  const ground = (e) => (e ? rgb(getComputedStyle(e).backgroundColor) ?? ground(e.parentElement) : [255, 255, 255]);
  const wrong = new Set();
  for (const e of document.querySelectorAll("body *:not(script):not(svg *)")) {
    const text = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text || !e.checkVisibility({ visibilityProperty: true })) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(e).color)), luminance(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) wrong.add(`${e.tagName}.${e.className} ${e.textContent.slice(0, 30)}`);
  }
  return [...wrong];
}"""
"""Returns the elements whose text has too little contrast (WCAG 2.2, 1.4.3)."""

UNLABELLED = f"""() => [...document.querySelectorAll({FOCUSABLE})]
  .filter((e) => e.checkVisibility() && !e.labels?.length && !e.textContent.trim())
  .filter((e) => !e.getAttribute("aria-label") && !e.getAttribute("aria-labelledby")).map((e) => e.outerHTML)"""
"""Returns the controls without a name."""

CONTROLS = f"""() => [...document.querySelectorAll({FOCUSABLE})]
  .filter((e) => e.checkVisibility() && !e.closest(".skip")).map((e, i) => {{ e.dataset.stop = i; return i; }})"""
"""Numbers the controls that can be seen."""

PLACE = """(key) => {
  const plot = document.getElementById("plot"), { xaxis, yaxis } = plot._fullLayout;
  const trace = plot.data.find((each) => each.customdata?.includes(key)), i = trace.customdata.indexOf(key);
  const { left, top } = plot.getBoundingClientRect();
  return [left + xaxis._offset + xaxis.d2p(trace.x[i]), top + yaxis._offset + yaxis.d2p(trace.y[i])];
}"""
"""Returns where a point is on the screen."""

LAST_COLUMN = """() => {
  const panel = document.getElementById("chosen"), { left } = panel.getBoundingClientRect();
  const room = left + panel.clientWidth - parseFloat(getComputedStyle(panel).paddingRight);
  const ends = [...panel.querySelectorAll(".pairs tr")].map((row) => row.lastElementChild.getBoundingClientRect());
  return Math.max(...ends.map(({ right }) => right)) - room;
}"""
"""Returns by how many pixels the last column of the chosen model's numbers leaves the panel's room."""


def rows(page: Any) -> list[list[str]]:
    """Return the cells of the table of models."""
    found: list[list[str]] = page.eval_on_selector_all(
        "#table tbody tr", "all => all.map(r => [...r.cells].map(c => c.innerText))"
    )
    return found


def becomes(true: Callable[[], bool]) -> None:
    """Wait until something is true; the page's policy allows no script of a test's to wait in it."""
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def title(page: Any) -> str:
    """Return the title of the chosen model."""
    return str(page.inner_text("#chosen-title"))
