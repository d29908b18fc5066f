"""The time budget: how long the stages of a run take, and whether another trial fits in."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from ..evaluators.measurement import MEDIAN, Measurement, quantile
from ..storage.study_store import StudyStore
from .dispatch import RunContext
from .finalists import FINALISTS, too_slow_for_sure

RESERVED = 0.5
"""Largest share of a time budget that is reserved for the final evaluation; a longer one exceeds the budget."""

LATEST = 20
"""How many of the last trials predict how long the next stages take."""

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

    def final_evaluation_s(self, models: int, *, epochs: float, workers: int) -> float:
        """Return the time of the final evaluation: longer training, scoring on test data too, careful timing."""
        work = self.trial_s(epochs, trained=True) + self.score_s
        return models * (work / max(1, workers) + self.careful_s)


def reserved_s(final_s: float, budget_s: float) -> float:
    """Return how much of a time budget is reserved for the final evaluation, given its expected time."""
    return min(final_s, RESERVED * budget_s)


def stage_times(measurements: Iterable[Measurement]) -> StageTimes | None:
    """Return the stages' times from finished trials; None before one was trained.

    Medians, except for the timing, where it is the lower quartile: it includes waiting while others had the device.
    """
    trained = [m for m in measurements if m.epochs and m.seconds.get("train")]
    if not trained:
        return None

    def spent(rung: str, percentile: float = MEDIAN) -> float:
        return quantile([m.seconds.get(rung, 0.0) for m in trained], percentile)

    build_s = spent("build")
    process_s = quantile([m.seconds.get("latency", 0.0) / max(1, m.latency.processes) for m in trained], 25.0)
    return StageTimes(
        build_s=build_s,
        measure_s=spent("latency", 25.0),
        careful_s=CAREFUL_PROCESSES * process_s,
        score_s=spent("one-shot"),
        epoch_s=quantile([max(0.0, m.seconds["train"] - build_s) / m.epochs for m in trained], MEDIAN),
    )


class TimeBudget:
    """Decides whether another trial may begin; the final evaluation must fit into the time budget too.

    Args:
        context: the run, with its budget and its start.
        store: the study, whose trials predict how long the final evaluation takes.
    """

    def __init__(self, context: RunContext, store: StudyStore) -> None:
        self._context = context
        self._store = store
        self._finished = -1
        self._final_s = 0.0

    def in_time(self) -> bool:
        """Return whether a trial may begin."""
        left_s = self.left_s()
        return left_s is None or left_s > 0

    def left_s(self) -> float | None:
        """Return the seconds left for trials; None without a budget."""
        budget_s = self._context.options.time_budget_s
        if budget_s is None:
            return None
        return self._context.started + budget_s - reserved_s(self.final_s(), budget_s) - time.monotonic()

    def final_s(self) -> float:
        """Return the seconds that the final evaluation is predicted to take; 0 before a trial was trained."""
        finished = self._store.count()
        if finished != self._finished:
            self._finished, self._final_s = finished, self._predicted_s()
        return self._final_s

    def _predicted_s(self) -> float:
        found = self._store.found
        times = stage_times(model.measurement for model in found.latest(LATEST))
        if times is None:
            return 0.0
        limits = self._store.limits
        meeting = [m for m in found.front() if limits.satisfied_by(m.measurement)]
        references = found.references()
        late = too_slow_for_sure([*references, *meeting], limits)
        models = len(references) - len(late) + min(FINALISTS, len(meeting))
        workers = self._context.options.workers or 1
        return times.final_evaluation_s(models, epochs=self._context.final_epochs, workers=workers)
