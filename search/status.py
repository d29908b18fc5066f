"""The status of a search, read from its study: how far it is, its best model, and the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..evaluators.ladder.trial_files import RUNG
from ..evaluators.measurement import Measurement
from ..pareto.comparison_words import speed
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model
from ..pareto.objectives import front_hypervolume
from ..storage.artifacts import LocalArtifacts
from ..storage.study_store import StudyStore
from ..studies.metric_units import shown
from .dispatch import RunContext
from .progress import Running, SearchState
from .time_budget import TimeBudget


class SearchStatus:
    """Returns the state of a search; what is expensive to compute is updated when a trial has finished.

    Args:
        context: the run; in its directory workers write which rung a trial is on.
        store: the study.
        budget: predicts how long the final evaluation takes.
    """

    def __init__(self, context: RunContext, store: StudyStore, budget: TimeBudget) -> None:
        self._store = store
        self._options = context.options
        self._rundir = context.rundir
        self._budget = budget
        self._began = time.monotonic()
        self._before = store.count()
        self._front: list[str] | None = None
        self._better_at = 0
        self._known = SearchState(finished=-1, total=0, best="")

    def state(self, running: Mapping[str, float], blocked_reason: str) -> SearchState:
        """Return the state of the search.

        Args:
            running: when the running trials began, by `time.monotonic`, by their folders.
            blocked_reason: what the work waits for.
        """
        finished, now = self._store.count(), time.monotonic()
        if finished != self._known.finished:
            self._known = self._looked_up(finished)
        at_work = tuple(
            Running(folder.rpartition("/")[2], self._rung(folder), now - began) for folder, began in running.items()
        )
        known = self._known
        return SearchState(
            finished=finished,
            total=self._options.trials,
            running=at_work,
            best=known.best,
            front=known.front,
            hypervolume=known.hypervolume,
            unchanged=known.unchanged,
            left_s=self._left_s(finished, now),
            blocked_reason=blocked_reason,
        )

    def _looked_up(self, finished: int) -> SearchState:
        found = self._store.found
        limits = self._store.limits.told_by(model.measurement for model in found.all())
        meeting = [m for m in found.front() if limits.satisfied_by(m.measurement)]
        ids = [m.id for m in meeting]
        if self._front is None:  # of a study that resumes
            newest = max((int(name) for name in ids if name != BASELINE), default=-1)
            self._better_at = finished - sum(trial.number > newest for trial in self._store.finished())
        elif ids != self._front:
            self._better_at = finished
        self._front = ids
        return SearchState(
            finished=finished,
            total=self._options.trials,
            best=_in_words(meeting, found.all(), limits),
            front=len(meeting),
            hypervolume=self._hypervolume(meeting),
            unchanged=finished - self._better_at if meeting else 0,
        )

    def _left_s(self, finished: int, now: float) -> float | None:
        """Return the remaining seconds, estimated from this run's trials; None before the first one."""
        done = finished - self._before
        if not done:
            return None
        left_s = (now - self._began) / done * max(0, self._options.trials - finished)
        budget_s = self._budget.left_s()
        if budget_s is not None:
            left_s = min(left_s, max(0.0, budget_s))
        return left_s + self._budget.final_s()

    def _hypervolume(self, meeting: list[Model]) -> float:
        baseline = next((m for m in self._store.found.references() if m.id == BASELINE), None)
        if baseline is None:
            return 0.0
        return front_hypervolume([m.measurement for m in meeting], baseline.measurement, self._options.target_ms)

    def _rung(self, folder: str) -> str:
        if self._options.workers == 0:
            return "here"  # in this process, which reports nothing until it ends
        try:
            return (self._rundir.path / folder / RUNG).read_text() or "start"
        except OSError:
            return "start" if isinstance(self._rundir.artifacts, LocalArtifacts) else "running"


def _in_words(meeting: list[Model], models: list[Model], limits: Limits) -> str:
    """Return the best model that meets the limits, or the nearest one if none does."""
    if meeting:
        best = max(meeting, key=lambda m: m.measurement.accuracy)
        return f"best {in_words(best.measurement, limits.metric_unit)}"
    none = f"none meets {limits if limits.several else 'the target'} yet"
    nearest = min(models, key=lambda m: limits.distance(m.measurement), default=None)
    return none if nearest is None else f"{none}, nearest {in_words(nearest.measurement, limits.metric_unit)}"


def in_words(found: Measurement, unit: str) -> str:
    """Return a measurement's accuracy, in the metric's unit, its latency, its size and its speed in words."""
    size = f"{found.size_bytes / 1e6:.3g} MB"
    return f"{shown(found.accuracy, unit)} at {found.latency.median_ms:.2f} ms, {size}, {speed(found.latency.ratio)}"
