"""The ladder's learned rung: which candidates are not trained, and what that has saved and cost.

Optuna's pruners know one objective, so this one is ours: a candidate that was timed and scored without training ends
there when the accuracy that may be hoped of it would be dominated. A few of those are trained in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..pareto.model import Model
from ..studies.metric_units import SHARE
from .measurement import Infeasible, Measurement, Outcome
from .promotion import Promotion

LEAST = 8
"""Trained models before anyone is doubted."""

LATEST = 200
"""Models that the line is drawn through, where they were trained."""

DEVIATIONS = 1.64
"""Of the residuals: as far above the line as one in twenty lies."""

SPARED = 0.1
"""Share of the doubted that are trained in any case."""

ONE_SHOT, TRAIN = "one-shot", "train"


def learned(
    models: Sequence[Model], front: Iterable[Model], rng: np.random.Generator, *, unit: str = SHARE
) -> Promotion | None:
    """Return what trained models tell of how accuracies before and after training go together; None for too few.

    Args:
        models: the latest that were measured to the end; those count that were trained, be it to no avail.
        front: the rivals of the next candidate.
        rng: says whether the candidate is spared.
        unit: of the metric.

    """
    ended = [m.measurement for m in models if m.measurement.failure is None]
    trained = [m for m in ended if m.epochs or TRAIN in m.seconds]
    pairs = [(m.one_shot_accuracy, m.accuracy) for m in trained if m.one_shot_accuracy is not None]
    if len(pairs) < LEAST:
        return None
    slope, intercept, deviation = line(pairs)
    rivals = ((m.measurement.accuracy, m.measurement.latency.median_ms, m.measurement.size_bytes) for m in front)
    return Promotion(
        slope=slope,
        intercept=intercept,
        give=DEVIATIONS * deviation,
        rivals=tuple(rivals),
        unit=unit,
        spared=bool(rng.random() < SPARED),
    )


def line(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the slope, not below 0, and the intercept of a line through pairs, and the deviation about it."""
    before, after = np.array(pairs, dtype=np.float64).T
    spread = float(before.var())
    slope = max(0.0, float(np.cov(before, after, bias=True)[0, 1]) / spread) if spread else 0.0
    intercept = float(after.mean() - slope * before.mean())
    residuals = after - intercept - slope * before
    return slope, intercept, float(np.sqrt((residuals**2).sum() / (len(pairs) - 2)))


def stops_early(outcome: Infeasible) -> bool:
    """Return whether a candidate ended since nothing was hoped of it, and not since something failed."""
    return outcome.rung == ONE_SHOT and outcome.one_shot_accuracy is not None


def told(outcomes: Iterable[Outcome], front: Iterable[Model]) -> str:
    """Say what the ladder saved, and how often it was wrong as far as that is known; empty where it cut nobody."""
    outcomes = list(outcomes)
    cut = [each for each in outcomes if isinstance(each, Infeasible) and stops_early(each)]
    slow = [each for each in outcomes if isinstance(each, Infeasible) and each.rung == "latency"]
    measured = [each for each in outcomes if isinstance(each, Measurement)]
    training_s = [sum(m.seconds.get(rung, 0.0) for rung in ("train", "accuracy")) for m in measured if m.epochs]
    if (not cut and not slow) or not training_s:
        return ""
    saved_s, whole_s = float(np.mean(training_s)) * (len(cut) + len(slow)), sum(training_s)
    wrong = sum(bool(model.measurement.doubted) for model in front)
    spared = sum(bool(m.doubted) for m in measured)
    doubts = f"; of {spared} trained against the odds, {wrong} came onto the front" if spared else ""
    return (
        f"the ladder: {len(slow)} candidates ended when they were timed, {len(cut)} before training; that saved about "
        f"{saved_s / (saved_s + whole_s):.0%} of all training{doubts}"
    )
