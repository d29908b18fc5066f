"""``report.html``: one file with its data, its scripts and plotly.js, which opens from disk and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

SCRIPTS = ("core", "answer", "plot", "table", "model", "sections", "main")
"""The page's own scripts, in the order in which they are joined."""

MOST_POINTS = 2500
"""Most models and trials of a page: with more it opens slowly and shows no more."""

MOST_BYTES = 3_000_000
"""Most bytes of a page's models and trials; plotly.js takes another 4.8 MB."""

ALWAYS = ("baseline", "front", "obvious")

ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
"""Characters that could end a script element, or a line of one, inside a string."""


def render(data: Mapping[str, Any]) -> str:
    """Return the page for the data of a report."""
    from plotly.offline import get_plotlyjs  # noqa: PLC0415  # start-up time: plotly is slow to import

    plotly = get_plotlyjs()
    script = "\n".join(_web(f"{name}.js") for name in SCRIPTS)
    name = str(data["study"]["name"])
    return Template(_web("page.html")).substitute(
        title=html.escape(f"{name}: {data['limits']['text']} · autocompress"),
        hashes=f"{_hash(plotly)} {_hash(script)}",
        style=_web("page.css"),
        data=embedded(thinned(data)),
        plotly=plotly,
        script=script,
    )


def _web(name: str) -> str:
    return (files(__package__) / "web" / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """Return the hash that allows only this script in a page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def embedded(data: object) -> str:
    r"""Return data as JSON that cannot end its script element.

    >>> embedded({"name": "</script><script>"})
    '{"name":"\\u003c/script\\u003e\\u003cscript\\u003e"}'
    """
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    for character, escape in ESCAPES.items():
        text = text.replace(character, escape)
    return text


def thinned(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return data with as many trials as a page may hold, and all models of the front and baselines.

    Measured trials come first. Infeasible ones are evenly taken from all, without the choices for their layers.
    """
    points: Sequence[dict[str, Any]] = data["points"]
    kept = [point for point in points if point["kind"] in ALWAYS]
    most, room = MOST_POINTS - len(kept), MOST_BYTES - sum(map(_bytes, kept))
    measured = [point for point in points if point["kind"] == "trial"]
    infeasible = [point for point in points if point["kind"] == "infeasible"]
    if len(points) > MOST_POINTS or sum(map(_bytes, (*measured, *infeasible))) > room:
        infeasible = [
            {name: value for name, value in point.items() if name not in ("layers", "settings")} for point in infeasible
        ]
        measured = _evenly(measured, 2 * most // 3, 0.8 * room)
        room -= sum(map(_bytes, measured))
        infeasible = _evenly(infeasible, most - len(measured), room)
    shown = [*kept, *measured, *infeasible]
    note = "" if len(shown) == len(points) else f"This page shows {len(shown):,} of {len(points):,} models and trials; "
    return {**data, "points": shown, "shown": note}


def _bytes(point: Mapping[str, Any]) -> int:
    return len(json.dumps(point, separators=(",", ":")))


def _evenly(points: Sequence[dict[str, Any]], most: int, room: float) -> list[dict[str, Any]]:
    """Return every n-th point, so that at most this many points and bytes are left."""
    spent = sum(map(_bytes, points))
    share = max(len(points) / max(1, most), spent / max(1.0, room))
    if share <= 1:
        return list(points)
    return [points[int(i * share)] for i in range(int(len(points) / share))]
