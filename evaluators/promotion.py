"""Early stopping: decides which candidates are trained, from their scores without training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..studies.metric_units import SHARE, shown
from .measurement import Infeasible, Latency, Measurement, Outcome
from .scores import Accuracy, keeps


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A prediction from earlier candidates: accuracies after training lie near a line over those before it.

    Attributes:
        slope: of the line.
        intercept: of the line.
        give: how far above the line the optimistic estimate lies.
        rivals: accuracy, milliseconds and bytes of the models of the front.
        unit: of the accuracies.
        spared: whether the candidate is trained in any case, to learn how often early stopping is wrong.
        unchanged: packed scores of the unchanged network on the validation data; empty if they are unknown.
    """

    slope: float
    intercept: float
    give: float
    rivals: tuple[tuple[float, float, int], ...]
    unit: str = SHARE
    spared: bool = False
    unchanged: str = ""

    def gains(self, one_shot: Accuracy, places: Sequence[int] | None = None) -> bool:
        """Return whether training may make a candidate better, which the final evaluation trains in any case.

        It does not if the candidate is as accurate as the unchanged network, and no training is predicted to do more.

        Args:
            one_shot: of the candidate.
            places: the validation examples that it was scored on; None for all.
        """
        predicted = self.intercept + self.slope * one_shot.value
        return predicted > one_shot.value or not keeps(one_shot.scores, self.unchanged, places)

    def doubt(self, one_shot_accuracy: float, latency: Latency, size_bytes: int) -> str:
        """Return why even the optimistic estimate leaves a candidate behind the front; empty if it does not.

        >>> promotion = Promotion(slope=0.5, intercept=0.5, give=0.05, rivals=((0.9, 2.0, 1000),))
        >>> from .measurement import Window
        >>> latency = Latency(windows=(Window(baseline_ns=(1,), candidate_ns=(1,)),) * 2, baseline_ms=3.0)
        >>> promotion.doubt(0.5, latency, 2000)
        '80.00% is the optimistic estimate, the front has 90.00% at 2.00 ms and 1 kB'
        >>> promotion.doubt(0.5, latency, 500), promotion.doubt(0.8, latency, 2000)
        ('', '')

        """
        hoped = max(one_shot_accuracy, self.intercept + self.slope * one_shot_accuracy + self.give)
        for accuracy, milliseconds, size in self.rivals:
            if accuracy > hoped and milliseconds <= latency.median_ms and size <= size_bytes:
                hope, there = shown(hoped, self.unit), shown(accuracy, self.unit)
                where = f"{milliseconds:.2f} ms and {size / 1e3:.5g} kB"
                return f"{hope} is the optimistic estimate, the front has {there} at {where}"
        return ""


LEAST = 8
"""How many models must be trained before any candidate is stopped early."""


LATEST = 200
"""How many of the latest models the line is fitted to; only trained ones count."""


DEVIATIONS = 1.64
"""Standard deviations by which the optimistic estimate is above the line: one model in twenty is higher."""


SPARED = 0.1
"""Share of the candidates with a poor prediction that are trained anyway."""


ONE_SHOT, TRAIN = "one-shot", "train"


def learned(
    measured: Sequence[Measurement],
    front: Iterable[Measurement],
    rng: np.random.Generator,
    *,
    unit: str = SHARE,
    unchanged: str = "",
) -> Promotion | None:
    """Fit how accuracies before and after training are related; return None if too few models were trained.

    Args:
        measured: the latest measurements; those that were trained count, even if training did not help.
        front: the rivals of the next candidate.
        rng: decides whether the candidate is spared.
        unit: the metric's unit.
        unchanged: see `Promotion`.
    """
    ended = [m for m in measured if m.failure is None]
    trained = [m for m in ended if m.epochs or TRAIN in m.seconds]
    pairs = [(m.one_shot_accuracy, m.accuracy) for m in trained if m.one_shot_accuracy is not None]
    if len(pairs) < LEAST:
        return None
    slope, intercept, deviation = line(pairs)
    rivals = ((m.accuracy, m.latency.median_ms, m.size_bytes) for m in front)
    return Promotion(
        slope=slope,
        intercept=intercept,
        give=DEVIATIONS * deviation,
        rivals=tuple(rivals),
        unit=unit,
        spared=bool(rng.random() < SPARED),
        unchanged=unchanged,
    )


def line(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the slope (at least 0) and the intercept of a line fitted to pairs, and the deviation about it."""
    before, after = np.array(pairs, dtype=np.float64).T
    spread = float(before.var())
    slope = max(0.0, float(np.cov(before, after, bias=True)[0, 1]) / spread) if spread else 0.0
    intercept = float(after.mean() - slope * before.mean())
    residuals = after - intercept - slope * before
    return slope, intercept, float(np.sqrt((residuals**2).sum() / (len(pairs) - 2)))


def stops_early(outcome: Infeasible) -> bool:
    """Return whether a candidate was stopped early because of its predicted accuracy, and did not fail."""
    return outcome.rung == ONE_SHOT and outcome.one_shot_accuracy is not None


def savings(outcomes: Iterable[Outcome], front: Iterable[Measurement]) -> str:
    """Return a sentence on what early stopping saved, and how often it was wrong; empty if it stopped no candidate."""
    outcomes = list(outcomes)
    cut = [each for each in outcomes if isinstance(each, Infeasible) and stops_early(each)]
    slow = [each for each in outcomes if isinstance(each, Infeasible) and each.rung == "latency"]
    measured = [each[0] for each in outcomes if not isinstance(each, Infeasible)]
    training_s = [sum(m.seconds.get(rung, 0.0) for rung in ("train", "accuracy")) for m in measured if m.epochs]
    if (not cut and not slow) or not training_s:
        return ""
    saved_s, whole_s = float(np.mean(training_s)) * (len(cut) + len(slow)), sum(training_s)
    wrong = sum(bool(m.doubted) for m in front)
    spared = sum(bool(m.doubted) for m in measured)
    doubts = f"; of {spared} trained despite a poor prediction, {wrong} came onto the front" if spared else ""
    return (
        f"early stopping: {len(slow)} candidates stopped after timing, {len(cut)} before training; that saved about "
        f"{saved_s / (saved_s + whole_s):.0%} of all training{doubts}"
    )
