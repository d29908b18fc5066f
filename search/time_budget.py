"""Estimates the time of a study's stages, from its trials or from a timing just now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..evaluators.measurement import MEDIAN, Measurement, quantile

FINALISTS = 8
"""How many models of a front get the final evaluation."""

RESERVED = 0.5
"""Largest share of a time budget that is reserved for the final evaluation; a longer one exceeds the budget."""

CAREFUL_PROCESSES = 4
"""How many processes a careful measurement takes, including that of the memory; most of their time is start-up."""


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Seconds of the stages of a trial.

    Attributes:
        build_s: to apply the techniques, export and build; again after a training.
        measure_s: to time the model, while nothing trains.
        careful_s: to time it carefully, at the end.
        score_s: to score it on the validation data; again after a training.
        epoch_s: to train it for one pass over the training data.
    """

    build_s: float
    measure_s: float
    careful_s: float
    score_s: float
    epoch_s: float

    def trial_s(self, epochs: float, *, trained: bool) -> float:
        """Return the time of a trial without its measurement."""
        once = self.build_s + self.score_s
        return 2 * once + epochs * self.epoch_s if trained and epochs else once

    def trials_s(self, trials: float, *, epochs: float, trained: float, workers: int) -> float:
        """Return the time of trials of which a share is trained: training is parallel, measuring stops it."""
        work = trained * self.trial_s(epochs, trained=True) + (1 - trained) * self.trial_s(epochs, trained=False)
        return trials * (self.measure_s + work / max(1, workers))

    def finals_s(self, models: int, *, epochs: float, workers: int) -> float:
        """Return the time of the final evaluation: longer training, scoring on test data too, careful timing."""
        work = self.trial_s(epochs, trained=True) + self.score_s
        return models * (work / max(1, workers) + self.careful_s)


def reserved_s(finals_s: float, budget_s: float) -> float:
    """Return how much of a time budget is reserved for the final evaluation, given its expected time."""
    return min(finals_s, RESERVED * budget_s)


def costs_of(measurements: Iterable[Measurement]) -> StageTimes | None:
    """Return the stages' times from finished trials; None before one was trained.

    Medians, except for the timing, where it is the lower quartile: it includes waiting while others had the device.
    """
    trained = [m for m in measurements if m.epochs and m.seconds.get("train")]
    if not trained:
        return None

    def spent(rung: str, percentile: float = MEDIAN) -> float:
        return quantile([m.seconds.get(rung, 0.0) for m in trained], percentile)

    build_s, measure_s = spent("build"), spent("latency", 25.0)
    processes = quantile([max(1, m.latency.processes) for m in trained], MEDIAN)
    return StageTimes(
        build_s=build_s,
        measure_s=measure_s,
        careful_s=CAREFUL_PROCESSES * measure_s / processes,
        score_s=spent("one-shot"),
        epoch_s=quantile([max(0.0, m.seconds["train"] - build_s) / m.epochs for m in trained], MEDIAN),
    )
