"""How long the parts of a study take: from what was timed, on its trials or just now, to what is to be expected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..evaluators.measurement import MEDIAN, Measurement, quantile

FINALISTS = 8
"""How many models of a front are taken to the end."""

RESERVED = 0.5
"""Share of a time budget that may be kept for the end; a front that takes longer takes more than was given."""

CAREFUL_PROCESSES = 4
"""How many processes a careful measurement takes, with that of the memory; most of their time is their start."""


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """Seconds that the parts of a trial take.

    Attributes:
        build_s: to apply the techniques, export and build; once more after a training.
        measure_s: to time the model, while nobody trains.
        careful_s: to time it with care, at the end.
        score_s: to score it on the validation data; once more after a training.
        epoch_s: to train it for a pass over the training data.
    """

    build_s: float
    measure_s: float
    careful_s: float
    score_s: float
    epoch_s: float

    def trial_s(self, epochs: float, *, trained: bool) -> float:
        """Return what a trial takes besides its measurement."""
        once = self.build_s + self.score_s
        return 2 * once + epochs * self.epoch_s if trained and epochs else once

    def trials_s(self, trials: float, *, epochs: float, trained: float, workers: int) -> float:
        """Return what trials take of which a share is trained: workers train at a time, one measures while all wait."""
        work = trained * self.trial_s(epochs, trained=True) + (1 - trained) * self.trial_s(epochs, trained=False)
        return trials * (self.measure_s + work / max(1, workers))

    def finals_s(self, models: int, *, epochs: float, workers: int) -> float:
        """Return what the end takes: models are trained longer, scored on the test data too, and timed with care."""
        work = self.trial_s(epochs, trained=True) + self.score_s
        return models * (work / max(1, workers) + self.careful_s)


def reserved_s(finals_s: float, budget_s: float) -> float:
    """Return how much of a time budget is kept for the end of a run, which is expected to take so long."""
    return min(finals_s, RESERVED * budget_s)


def costs_of(measurements: Iterable[Measurement]) -> StageTimes | None:
    """Return what finished trials took; None before one was trained.

    Medians, but of the timing the lower quartile: it counts the wait for the device, too, which others had.
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
