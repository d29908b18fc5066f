"""A front as a Plotly figure."""

from __future__ import annotations

from html import escape
from typing import Any

from ..pareto.front import ParetoFront
from ..pareto.model import Model
from ..studies.metric_units import SHARE, noun, shown
from .matplotlib_figure import BLUE, ORANGE, RED


def plot_front(front: ParetoFront) -> Any:
    """Return a Plotly figure of accuracy over latency: the front, the baselines, the target and the least accuracy.

    Latencies have their 95 % intervals as bars. A notebook shows the figure; ``figure.write_html(FILE)`` saves it.

    Args:
        front: the front to plot.
    """
    import plotly.graph_objects as go  # noqa: PLC0415  # start-up time: plotly is slow to import

    made = go.Figure()
    references = [m for m in front.references if m not in front.models]
    for name, models, color, symbol in (
        ("Pareto front", front.models, BLUE, "circle"),
        ("reference baselines", references, ORANGE, "square"),
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
    return f"{escape(name)} on {escape(str(measured.deployment))}<br>{numbers}"
