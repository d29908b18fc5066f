"""``report.md``: what a pull request needs to say of a run, in the Markdown that GitHub renders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...evaluators.scores import shown

SPECIAL = re.compile(r"[\\`*\[\]<>#!|~&@$]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown, or GitHub, may read as something else; an underscore inside of a word is none of it."""

SHOWN = 20
"""Rows of the table at most."""


def summary(data: Mapping[str, Any]) -> str:
    """Return the headline, the front as a table, and what must be known before the numbers are used."""
    points = {point["key"]: point for point in data["points"]}
    front, study, told = data["fronts"][0], data["study"], data["headline"]
    lines = [f"## {escaped(study['name'])}: {escaped(data['limits']['text'])}", "", *_headline(data, points)]
    lines += [f"- {escaped(reason)}" for reason in front["reasons"]]
    rows = list(dict.fromkeys([front["baseline"], *front["obvious"], *front["models"]]))
    lines += [
        "",
        "| model | kind | ms (95 %) | faster | validation | test | MB | meets |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    like = points[front["baseline"]]["accuracy"]
    lines += [_row(points[key], like, best=bool(told) and key == told["model"]) for key in rows[:SHOWN]]
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
    told = data["headline"]
    if told is None:
        return ["No candidate was measured.", ""]
    name = escaped(points[told["model"]]["id"])
    verdict = f"**{name} meets it**" if told["meets"] else f"Nothing meets it; **{name} is nearest**"
    low, high = told["faster_interval"]
    faster = f"{told['faster']:.2f}× faster (95 %: {low:.2f} to {'?' if high is None else f'{high:.2f}'})"
    smaller = "" if told["smaller"] is None else f", {told['smaller']:.1f}× smaller"
    like = told["baseline_accuracy"]
    change = f"{_points(told['accuracy_change'], like)} of accuracy on the {told['accuracy_on']} data"
    if told["accuracy_change_interval"]:
        down, up = (_points(end, like).removesuffix(" points") for end in told["accuracy_change_interval"])
        change += f" (95 %: {down} to {up})"
    state = "" if data["state"] == "finished" else f" *The run is {data['state']}.*"
    return [f"{verdict}: {faster}{smaller}, {change}.{state}", ""]


def _row(point: Mapping[str, Any], like: float, *, best: bool) -> str:
    latency = point["latency"]
    high = "?" if latency["high_ms"] is None else f"{latency['high_ms']:.2f}"
    test = "–" if point["test_accuracy"] is None else shown(point["test_accuracy"], like)
    faster = "–" if not latency["ratio"] else f"{1 / latency['ratio']:.2f}×"
    name = f"**{escaped(point['id'])}**" if best else escaped(point["id"])
    cells = [
        name,
        escaped(point["role"] or "front"),
        f"{latency['median_ms']:.2f} ({latency['low_ms']:.2f} to {high})",
        faster,
        shown(point["accuracy"], like),
        test,
        f"{point['size_bytes'] / 1e6:.2f}",
        "yes" if point["meets"] else "no",
    ]
    return f"| {' | '.join(cells)} |"


def _points(difference: float, like: float) -> str:
    """Return the difference of two accuracies: in points where they are shares."""
    return f"{100 * difference:+.2f} points" if 0 <= like <= 1 else f"{difference:+.4g}"


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
