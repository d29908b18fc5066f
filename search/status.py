"""The state of a search and its remaining time, read from its study."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ..evaluators.ladder.trial_files import RUNG
from ..pareto.comparison_words import speed
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model
from ..pareto.objectives import front_hypervolume
from ..storage.artifacts import LocalArtifacts
from ..storage.run_directory import RunDirectory
from ..storage.study_store import StudyStore
from ..storage.trials import trial_name
from ..studies.metric_units import shown
from .finalists import too_slow_for_sure
from .options import Options
from .progress import Running, SearchState
from .time_budget import FINALISTS, costs_of, reserved_s

LATEST = 20
"""How many of the last trials predict the time of the next ones."""


class SearchStatus:
    """Computes the state of a search; costly parts are only updated when a trial has finished.

    Args:
        store: the study.
        options: the options of the run.
        rundir: where workers say which rung a trial is on.
        started: when the run began, by `time.monotonic`, for its time budget.
        final_epochs: passes for the final training of each model.
    """

    def __init__(
        self, store: StudyStore, options: Options, rundir: RunDirectory, *, started: float, final_epochs: float
    ) -> None:
        self._store = store
        self._options = options
        self._rundir = rundir
        self._started = started
        self._final_epochs = final_epochs
        self._began = time.monotonic()
        self._before = store.count()
        self._front: list[str] | None = None
        self._better_at = 0
        self._known = SearchState(finished=-1, total=0, best="")
        self._finals_s = 0.0

    def in_time(self) -> bool:
        """Return whether a trial may start: the final evaluation must still fit into the time budget."""
        budget_s = self._options.time_budget_s
        return budget_s is None or time.monotonic() - self._started < self._for_trials_s(budget_s)

    def _for_trials_s(self, budget_s: float) -> float:
        return budget_s - reserved_s(self._finals_s, budget_s)

    def state(self, running: Mapping[str, tuple[int, float]], held_up: str) -> SearchState:
        """Return the state of the search.

        Args:
            running: number and start, by `time.monotonic`, of the running trials, by their folders.
            held_up: what the work waits for.
        """
        finished, now = self._store.count(), time.monotonic()
        if finished != self._known.finished:
            self._known = self._looked_up(finished)
        at_work = tuple(
            Running(trial_name(number), self._rung(folder), now - began) for folder, (number, began) in running.items()
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
            held_up=held_up,
        )

    def _looked_up(self, finished: int) -> SearchState:
        found = self._store.found
        limits = self._store.limits.told_by(model.measurement for model in found.all())
        meeting = [m for m in found.front() if limits.satisfied_by(m.measurement)]
        ids = [m.id for m in meeting]
        if self._front is None:  # of a study that goes on
            newest = max((int(name) for name in ids if name != BASELINE), default=-1)
            self._better_at = finished - sum(trial.number > newest for trial in self._store.finished())
        elif ids != self._front:
            self._better_at = finished
        self._front = ids
        costs = costs_of(model.measurement for model in found.latest(LATEST))
        workers = self._options.workers or 1
        references = found.references()
        models = (
            len(references) - len(too_slow_for_sure([*references, *meeting], limits)) + min(FINALISTS, len(meeting))
        )
        self._finals_s = costs.finals_s(models, epochs=self._final_epochs, workers=workers) if costs else 0.0
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
        if self._options.time_budget_s is not None:
            over_s = self._started + self._for_trials_s(self._options.time_budget_s)
            left_s = min(left_s, max(0.0, over_s - now))
        return left_s + self._finals_s

    def _hypervolume(self, meeting: list[Model]) -> float:
        baseline = next((m for m in self._store.found.references() if m.id == BASELINE), None)
        if baseline is None:
            return 0.0
        return front_hypervolume([m.measurement for m in meeting], baseline.measurement, self._options.target_ms)

    def _rung(self, folder: str) -> str:
        if self._options.workers == 0:
            return "here"  # in this process, which tells nothing meanwhile
        try:
            return (self._rundir.path / folder / RUNG).read_text() or "start"
        except OSError:
            return "start" if isinstance(self._rundir.artifacts, LocalArtifacts) else "running"


def _in_words(meeting: list[Model], models: list[Model], limits: Limits) -> str:
    """Return the best model that meets the limits, or the nearest one if none does."""
    if meeting:
        best = max(meeting, key=lambda m: m.measurement.accuracy)
        return f"best {_told(best, limits.metric_unit)}"
    none = f"none meets {limits if limits.several else 'the target'} yet"
    nearest = min(models, key=lambda m: limits.distance(m.measurement), default=None)
    return none if nearest is None else f"{none}, nearest {_told(nearest, limits.metric_unit)}"


def _told(model: Model, unit: str) -> str:
    it = model.measurement
    size = f"{it.size_bytes / 1e6:.3g} MB"
    return f"{shown(it.accuracy, unit)} at {it.latency.median_ms:.2f} ms, {size}, {speed(it.latency.ratio)}"
