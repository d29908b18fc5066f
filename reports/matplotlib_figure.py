"""Draws the front: accuracy against latency, the target, and the reference baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

from ..pareto.front import ParetoFront
from ..pareto.model import Model
from ..studies.metric_units import SHARE, noun, shown

BLUE, ORANGE, GREY, RED = "#0072b2", "#e69f00", "#8c8c8c", "#d55e00"  # for colour-blind readers (Okabe and Ito)


def draw(front: ParetoFront, trials: Sequence[Model], file: IO[bytes], *, kind: str = "png") -> None:
    """Write a picture with accuracy over latency, intervals as bars, the target as a line.

    Args:
        front: the front.
        trials: everything that was measured to the end, drawn faintly.
        file: is written to.
        kind: ``png`` or ``svg``.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  # start-up time: matplotlib is slow to import

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    _points(axes, trials, color=GREY, marker=".", label="trials", alpha=0.4)
    _points(axes, front.references, color=ORANGE, marker="s", label="reference baselines", bars=True)
    _points(axes, [front.baseline], color=RED, marker="D", label="unchanged network", bars=True)
    _points(axes, front.models, color=BLUE, marker="o", label="Pareto front", bars=True)
    axes.axvline(front.target_ms, color="black", linestyle="--", linewidth=1, label=f"target {front.target_ms:g} ms")
    floor = front.limits.min_accuracy
    if floor is not None:
        axes.axhline(
            floor,
            color="black",
            linestyle=":",
            linewidth=1,
            label=f"lowest {noun(front.unit)} {shown(floor, front.unit)}",
        )
    heights = [m.measurement.accuracy for m in (front.baseline, *front.models, *front.references)]
    margin = max(0.005 * max(map(abs, heights)), 0.2 * (max(heights) - min(heights))) or 1.0
    heights += [] if floor is None else [floor]
    axes.set_ylim(min(heights) - margin, max(heights) + margin)
    axes.set_xlim(left=0)
    axes.set_xlabel("latency in ms (median, 95 % interval)")
    axes.set_ylabel(_on_validation(front.unit))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, format=kind, dpi=150)


def beside(fronts: Mapping[str, ParetoFront], file: IO[bytes], *, kind: str = "png", relative: bool = False) -> None:
    """Write a picture with several fronts.

    Args:
        fronts: by name.
        file: is written to.
        kind: ``png``, ``svg`` or ``pdf``.
        relative: whether latencies and accuracies are relative to the unchanged network of each front.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  # start-up time: matplotlib is slow to import

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for (name, front), color, marker in zip(fronts.items(), (BLUE, ORANGE, RED, GREY), "osD^", strict=False):
        base = front.baseline.measurement
        ms, accuracy = (base.latency.median_ms, base.accuracy) if relative else (1.0, 0.0)
        measured = [m.measurement for m in front.models]
        x = [m.latency.median_ms / ms for m in measured]
        error = [[(m.latency.median_ms - m.latency.low_ms) / ms for m in measured]]
        error.append([(m.latency.high_ms - m.latency.median_ms) / ms for m in measured])
        y = [m.accuracy - accuracy for m in measured]
        axes.errorbar(x, y, xerr=error, color=color, marker=marker, linewidth=1, elinewidth=1, label=name)
    axes.set_xlim(left=0)
    axes.set_xlabel("latency over the unchanged network's" if relative else "latency in ms (median, 95 % interval)")
    units = {front.unit for front in fronts.values()}
    label = _on_validation(units.pop() if len(units) == 1 else "")
    axes.set_ylabel(label + (", less the unchanged network's" if relative else ""))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, format=kind, dpi=150)


def _on_validation(unit: str) -> str:
    """Return the label of an axis with the metric; shares are drawn between 0 and 1."""
    of = f" in {unit}" if unit not in ("", SHARE) else ""
    return f"{noun(unit)}{of} on the validation data"


def _points(axes: Any, models: Sequence[Model], *, bars: bool = False, **style: Any) -> None:
    if not models:
        return
    latencies = [m.measurement.latency for m in models]
    x = [latency.median_ms for latency in latencies]
    y = [m.measurement.accuracy for m in models]
    error = [[v - k.low_ms for v, k in zip(x, latencies, strict=True)]]
    error.append([k.high_ms - v for v, k in zip(x, latencies, strict=True)])
    axes.errorbar(x, y, xerr=error if bars else None, linestyle="none", elinewidth=1, **style)
