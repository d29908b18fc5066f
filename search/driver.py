"""The driver: asks for candidates, has them evaluated and records the outcomes, until the budget is spent."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable

import numpy as np

from ..errors import LostError, StudyError, UsageError
from ..evaluators.evaluator import Request
from ..evaluators.ladder.failure import failure_of
from ..evaluators.ladder.trial_files import SHAPES
from ..evaluators.measurement import Infeasible, Measurement, cut
from ..evaluators.promotion import LATEST, Promotion, learned, savings, stops_early
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model
from ..spaces.candidate import SETTINGS, Candidate
from ..storage.repeated_failures import RepeatedFailures, failed_repeatedly
from ..storage.run_directory import RunDirectory
from ..storage.study_store import ATTEMPTS, PendingTrial, StudyStore
from ..storage.trials import outcome as outcome_of
from ..storage.trials import trial_name
from .inheritance import ancestor_of
from .interrupts import Interrupted, Interrupts
from .options import Options
from .progress import Progress
from .seeds import TRIAL, seed_of
from .status import SearchStatus
from .workers.base import LostTrial, Result, Workers
from .workers.shipping import fetch_outcome

TICK_S = 0.5

LOOK_S = 15.0
"""Seconds between two searches for trials of dead drivers."""


class Driver:
    """Runs the trials of a study.

    Args:
        store: the study.
        workers: where trials are evaluated.
        options: budgets and settings.
        epochs: passes over the training data in a trial.
        rundir: where trials keep their files.
        progress: reports the progress.
        interrupts: says whether the user wants to stop.
        started: when the run began, by `time.monotonic`, for its time budget.
        final_epochs: passes that each model of the front will have, to estimate the remaining time.
        student: whether a student is compressed, which has to be trained even if nothing compresses it.
        meanwhile: called repeatedly.
    """

    def __init__(
        self,
        store: StudyStore,
        workers: Workers,
        options: Options,
        *,
        epochs: float,
        rundir: RunDirectory,
        progress: Progress,
        interrupts: Interrupts,
        started: float,
        final_epochs: float = 0.0,
        student: bool = False,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self.store = store
        self.workers = workers
        self.options = options
        self.epochs = epochs
        self.rundir = rundir
        self.progress = progress
        self.interrupts = interrupts
        self.student = student
        self.meanwhile = meanwhile
        store.notice = progress.notice
        self._running: dict[str, tuple[int, float]] = {}
        self._unlucky = 0
        self._kept = {f"trials/{folder.name}" for folder in rundir.trials.glob("*")}
        self._checked = time.monotonic()
        self.alike: RepeatedFailures | None = None
        self._outlook = SearchStatus(store, options, rundir, started=started, final_epochs=final_epochs)

    def run(self) -> None:
        """Evaluate trials until the budget is spent.

        Raises:
            Interrupted: the user wants to stop; running trials are put back.
            StudyError: the first candidates failed alike, and none was scored.
        """
        try:
            self._tidy()
            while self._begin() or self._running or self._awaits_others():
                self._show()
                with self.interrupts.safe(inside=self.workers.interruptible or not self._running):
                    results = self.workers.wait(TICK_S) if self._running else self._idle()
                for request, outcome in results:
                    self._end(request, outcome)
                self._look_after_others()
                self.meanwhile()
            if not self._outlook.in_time() and self.store.count() <= 1:
                self.progress.milestone(
                    "the time was over before a candidate was tried; run the same command with a larger --time-budget "
                    "to resume"
                )
            if self.alike is not None:
                self._stop(self.alike)
            front = (model.measurement for model in self.store.found.front())
            saved = savings(map(outcome_of, self.store.finished()), front)
            if saved:
                self.progress.milestone(saved)
        except Interrupted:
            for request in self.workers.abandon():
                self.store.lost(self._running.pop(request.folder)[0], "it was interrupted", counts=False)
            raise

    def _stop(self, alike: RepeatedFailures) -> None:
        """Report why the search stops, and have the next run retry the failed trials.

        Raises:
            StudyError: nothing was scored but the unchanged network.
        """
        self.store.void(alike)
        if all(isinstance(found, Infeasible) and failure_of(found) for found in self.store.candidates().values()):
            raise StudyError(f"{alike}.")
        self.progress.milestone(
            f"{alike}. Candidates that were scored count untrained; then run the same command to resume"
        )

    def _idle(self) -> list[Result]:
        time.sleep(TICK_S)
        return self.workers.wait(0.0)

    def _awaits_others(self) -> bool:
        """Return whether trials of other drivers belong to this study's end, and may fall to this driver."""
        goes_on = self._outlook.in_time() or not self._has_baseline()
        goes_on = goes_on and self.alike is None
        return goes_on and self.store.count() < self.options.trials and self.store.elsewhere() > 0

    def _look_after_others(self) -> None:
        """From time to time, put back the trials of dead drivers."""
        if time.monotonic() - self._checked > LOOK_S:
            self._checked = time.monotonic()
            self.store.recover()

    def _begin(self) -> bool:
        """Give trials to free workers; return whether the budget allows more."""
        if not self._outlook.in_time() and self._has_baseline():
            for request in self.workers.withdraw():
                self.store.lost(self._running.pop(request.folder)[0], "the time was over", counts=False)
        while self._budget_left() and self.workers.free():
            asked = self.store.ask()
            known = self.store.outcome_of(asked.candidate, asked.role)
            if known is not None:
                self.store.tell(asked.number, known)
                continue
            request = self._request(asked)
            self._running[request.folder] = asked.number, time.monotonic()
            self.workers.submit(request)
        return self._budget_left()

    def _has_baseline(self) -> bool:
        """Return whether the unchanged network was measured; without it there is no result."""
        return any(model.id == BASELINE for model in self.store.found.references())

    def _budget_left(self) -> bool:
        """Return whether another trial may start; when the time is over, only that of the baseline.

        None may start while trials fail alike, until one of the running ones succeeds.
        """
        if self.alike is not None:
            return False
        if not self._outlook.in_time():
            return not self._running and not self._has_baseline() and self.store.awaits(BASELINE)
        at_work = len(self._running) + self.store.elsewhere()
        return self.store.count() + at_work < self.options.trials

    def _request(self, asked: PendingTrial) -> Request:
        unchanged = asked.role == BASELINE
        trained = compresses(asked.candidate) or (self.student and not unchanged)
        limits = self.store.limits
        most = Limits(math.inf) if asked.role else limits
        known = self.store.measured(asked.candidate, asked.role)
        return Request(
            folder=f"trials/{trial_name(asked.number)}",
            candidate=asked.candidate,
            epochs=self.epochs if trained else 0.0,
            unchanged=unchanged,
            seed=seed_of(self.options.seed, trial_name(asked.number), TRIAL),
            ancestor=self._ancestor(asked),
            target_ms=None if asked.role else limits.target_ms,
            max_size_bytes=most.max_size_bytes,
            max_memory_bytes=most.max_memory_bytes,
            max_energy_mj=most.max_energy_mj,
            also=limits.measured,
            known=known,
            latencies=() if known is None else tuple(each.latency for each in known.everywhere),
            timeout_s=self.options.trial_timeout_s,
            promotion=self._promotion(asked),
            attempt=asked.attempt,
        )

    def _promotion(self, asked: PendingTrial) -> Promotion | None:
        """Return the rule that decides whether a candidate is trained; with several deployments all are."""
        if asked.role or not self.options.promote or self.options.places > 1:
            return None
        rng = np.random.default_rng([self.options.seed, asked.number])
        latest = self.store.found.latest(LATEST)
        unit = self.store.limits.told_by(model.measurement for model in latest).metric_unit
        rivals = (model.measurement for model in self.store.found.front())
        return learned([model.measurement for model in latest], rivals, rng, unit=unit)

    def _ancestor(self, asked: PendingTrial) -> str:
        """Return the file of weights that a candidate starts from; reference baselines start from the original."""
        if asked.role or not self.options.inherit:
            return ""
        found = ancestor_of(asked.candidate, self._with_files())
        return f"{found.path}/{SHAPES}" if found else ""

    def _end(self, request: Request, outcome: Measurement | Infeasible | LostTrial) -> None:
        number = self._running.pop(request.folder)[0]
        if not isinstance(outcome, LostTrial):
            outcome = fetch_outcome(self.rundir.artifacts, self.rundir.path, request, outcome)
        self._kept.add(request.folder)
        if isinstance(outcome, LostTrial):
            self.progress.milestone(f"trial {number}: {outcome.why}; it is tried again")
            self.store.lost(number, outcome.why, counts=outcome.counts)
            self._give_up(outcome)
        else:
            self._unlucky = 0
            self._tell(number, outcome)

    def _give_up(self, lost: LostTrial) -> None:
        """End a run whose trials are lost again and again through no fault of their own: continuing would not help.

        Raises:
            UsageError: this is the case.
        """
        self._unlucky += not lost.counts
        if self._unlucky > ATTEMPTS * (self.options.workers or 1 + len(self._running)):
            raise UsageError(
                f"trials must have somewhere to keep their files; {self._unlucky} in a row were lost, the last one as "
                f"{lost.why}. No finished trial is lost: run the same command to resume."
            )

    def _tell(self, number: int, outcome: Measurement | Infeasible) -> None:
        if isinstance(outcome, Infeasible) and self.store.role(number) == BASELINE:
            self.store.lost(number, outcome.reason, counts=False)  # for the next run to try again
            raise StudyError(f"the unchanged network cannot be evaluated: {outcome.reason}")
        self.store.tell(number, outcome)
        self.alike = failed_repeatedly(self.store.candidates())
        if isinstance(outcome, Infeasible) and not cut(outcome) and not stops_early(outcome):
            self.progress.milestone(f"trial {number} is infeasible: {outcome.reason}")
        if isinstance(outcome, Measurement) and outcome.failure is not None:
            self.progress.milestone(f"trial {number} could not be trained: {outcome.failure.reason}")
        self._tidy()

    def _left(self, gone: set[str]) -> set[str]:
        """Delete folders where workers keep them; return those that remain for the next time."""
        left = set()
        for folder in gone:
            try:
                self.rundir.artifacts.delete(folder)
            except LostError:
                left.add(folder)
        return left

    def _with_files(self) -> list[Model]:
        """Return the models to keep the files of: those of the fronts, and those with a role in the report."""
        found = self.store.found
        return [*found.references(), *(model for model in (*found.front(), *found.alone()) if model.role == "front")]

    def _tidy(self) -> None:
        """Delete the files of trials that ended or left the front, except those that describe an error."""
        kept = {model.path for model in self._with_files()} | self._running.keys()
        gone = self._kept - kept
        for path in gone:
            if not (self.rundir.path / path / "error.txt").exists():
                shutil.rmtree(self.rundir.path / path, ignore_errors=True)
        self._kept = kept | self._left(gone)

    def _show(self) -> None:
        self.progress.notice(self._outlook.state(self._running, self.workers.held_up()))


def compresses(candidate: Candidate) -> bool:
    """Return whether a candidate changes the network at all."""
    return any(axis not in SETTINGS for axis in candidate.axes)
