"""``report.md``: a summary of a run for a pull request, in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..pareto.comparison_words import size, speed
from ..studies.metric_units import bare, points_of, shown

SPECIAL = re.compile(r"[\\`*\[\]<>#!|~&@$]|(?<![^\W_])_|_(?![^\W_])")
"""Characters with a meaning in Markdown or on GitHub; an underscore inside a word has none."""

SHOWN = 20
"""Most rows of the table."""


def summary(data: Mapping[str, Any]) -> str:
    """Return the headline, the front as a table, and the caveats."""
    points = {point["key"]: point for point in data["points"]}
    front, study, headline = data["fronts"][0], data["study"], data["headline"]
    lines = [f"## {escaped(study['name'])}: {escaped(data['limits']['text'])}", "", *_headline(data, points)]
    lines += [f"- {escaped(reason)}" for reason in front["reasons"]]
    rows = list(dict.fromkeys([front["baseline"], *front["obvious"], *front["models"]]))
    lines += [
        "",
        "| model | kind | ms (95 %) | speed | validation | test | MB | meets |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    unit = data["limits"]["unit"]
    lines += [_row(points[key], unit, best=bool(headline) and key == headline["model"]) for key in rows[:SHOWN]]
    if len(rows) > SHOWN:
        lines += ["", f"{len(rows) - SHOWN} more are in `pareto.csv`."]
    if data["warnings"]:
        lines += ["", "> [!WARNING]", *(f"> - {escaped(warning)}" for warning in data["warnings"])]
    about = ("runtime", "threads", "batch", "percentile", "device")
    facts = [f"{name} {escaped(study[name])}" for name in about if study.get(name)]
    cpu = data["environment"].get("cpu")
    facts += [escaped(cpu)] if cpu else []
    facts = [f"{data['search']['trials']} trials", *facts, f"autocompress {data['autocompress']}", data["written"][:10]]
    lines += ["", f"<sub>{' · '.join(facts)}</sub>"]
    return "\n".join(lines) + "\n"


def _headline(data: Mapping[str, Any], points: Mapping[str, Mapping[str, Any]]) -> list[str]:
    headline = data["headline"]
    if headline is None:
        return ["No candidate was measured.", ""]
    name = escaped(points[headline["model"]]["id"])
    verdict = f"**{name} meets it**" if headline["meets"] else f"Nothing meets it; **{name} is nearest**"
    state = "" if data["state"] == "finished" else f" *The run is {data['state']}.*"
    if points[headline["model"]]["kind"] == "baseline":
        return [f"{verdict}: no model found is better than the unchanged network.{state}", ""]
    low, high = headline["faster_interval"]
    interval = f"(95 %: {low:.2f}× to {'?' if high is None else f'{high:.2f}×'} the speed)"
    smaller = "" if headline["smaller"] is None else f", {size(headline['smaller'], 1)}"
    unit = data["limits"]["unit"]
    change = f"{points_of(headline['accuracy_change'], unit)} on the {headline['accuracy_on']} data"
    if headline["accuracy_change_interval"]:
        down, up = (bare(end, unit) for end in headline["accuracy_change_interval"])
        change += f" (95 %: {down} to {up})"
    return [f"{verdict}: {speed(1 / headline['faster'])} {interval}{smaller}, {change}.{state}", ""]


def _row(point: Mapping[str, Any], unit: str, *, best: bool) -> str:
    latency = point["latency"]
    high = "?" if latency["high_ms"] is None else f"{latency['high_ms']:.2f}"
    test = "–" if point["test_accuracy"] is None else shown(point["test_accuracy"], unit)
    faster = "–" if not latency["ratio"] else f"{1 / latency['ratio']:.2f}×"
    name = f"**{escaped(point['id'])}**" if best else escaped(point["id"])
    cells = [
        name,
        escaped(point["role"] or "front"),
        f"{latency['median_ms']:.2f} ({latency['low_ms']:.2f} to {high})",
        faster,
        shown(point["accuracy"], unit),
        test,
        f"{point['size_bytes'] / 1e6:.2f}",
        "yes" if point["meets"] else "no",
    ]
    return f"| {' | '.join(cells)} |"


def escaped(text: object) -> str:
    r"""Return text that Markdown shows as it is, on one line.

    >>> escaped("<b>*x*|y")
    '\\<b\\>\\*x\\*\\|y'
    """
    line = " ".join(str(text).split())
    safe = SPECIAL.sub(r"\\\g<0>", line)
    return safe.replace("@", "@\u200b").replace("#", "#\u200b")  # else GitHub calls people and quotes issues


def code(text: object) -> str:
    r"""Return text as Markdown code, on one line, also in a table.

    >>> print(code("a`b|c"))
    `a'b\|c`
    """
    line = " ".join(str(text).split())
    return "`" + line.replace("`", "'").replace("|", r"\|") + "`"
