"""A front in a notebook: a table and a Plotly figure."""

from __future__ import annotations

from html import escape
from typing import Any

from ..pareto.front import ParetoFront
from ..pareto.model import Model
from ..studies.metric_units import SHARE, noun, shown
from .matplotlib_figure import BLUE, ORANGE, RED
from .words import speed

COLUMNS = {
    "id": "model",
    "runtime": "runtime",
    "latency_ms": "ms",
    "latency_low_ms": "from",
    "latency_high_ms": "to",
    "accuracy": "validation",
    "test_accuracy": "test",
    "size_bytes": "bytes",
    "meets_target": "meets",
}
"""Columns of a front's table that are shown, with their headings."""


def html(front: ParetoFront) -> str:
    """Return a sentence and a table in HTML, with user text escaped."""
    best = front.recommended
    if best is None:
        said = f"No candidate could be measured completely, for {front.limits}."
    else:
        verb = "meets" if front.meets(best) else "is the nearest to"
        said = f"{best.id} {verb} {front.limits}: {speed(best.measurement.latency.ratio)}."
    table = front.to_pandas()[list(COLUMNS)].rename(columns=COLUMNS)
    return f"<p>{escape(said)}</p>" + str(table.to_html(index=False, border=0, float_format="{:.4g}".format))


def figure(front: ParetoFront) -> Any:
    """Return a figure of accuracy over latency: the front, the baselines, the limits."""
    import plotly.graph_objects as go

    made = go.Figure()
    obvious = [m for m in front.obvious if m not in front.models]
    for name, models, color, symbol in (
        ("Pareto front", front.models, BLUE, "circle"),
        ("reference baselines", obvious, ORANGE, "square"),
        ("unchanged network", (front.baseline,), RED, "diamond"),
    ):
        if models:
            made.add_trace(go.Scatter(name=name, mode="markers", **_points(models, color, symbol, front.unit)))
    made.add_vline(front.target_ms, line_dash="dash", annotation_text=f"target {front.target_ms:g} ms")
    if front.limits.min_accuracy is not None:
        made.add_hline(front.limits.min_accuracy, line_dash="dot")
    made.update_xaxes(title="latency in ms (median, 95 % interval)", rangemode="tozero")
    unit = front.unit
    ticks = {"tickformat": ".1%"} if unit == SHARE else {"ticksuffix": f" {unit}".rstrip()}
    made.update_yaxes(title=f"{noun(unit)} on the validation data", **ticks)
    return made


def _points(models: Any, color: str, symbol: str, unit: str) -> dict[str, Any]:
    latencies = [m.measurement.latency for m in models]
    return {
        "x": [latency.median_ms for latency in latencies],
        "y": [m.measurement.accuracy for m in models],
        "text": [_hover(m, unit) for m in models],
        "hoverinfo": "text",
        "marker": {"color": color, "symbol": symbol, "size": 9},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [latency.high_ms - latency.median_ms for latency in latencies],
            "arrayminus": [latency.median_ms - latency.low_ms for latency in latencies],
            "thickness": 1,
        },
    }


def _hover(model: Model, unit: str) -> str:
    measured = model.measurement
    name = model.id if model.role == "front" else f"{model.id} ({model.role})"
    numbers = (
        f"{measured.latency.median_ms:.3g} ms, {shown(measured.accuracy, unit)}, {measured.size_bytes / 1e6:.3g} MB"
    )
    return f"{escape(name)} on {escape(str(measured.latency.place))}<br>{numbers}"
