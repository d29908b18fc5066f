"""The driver of a search: it runs the trials of a study until the budget is spent."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable

from ..errors import LostError, StudyError, UsageError
from ..evaluators.evaluator import Request
from ..evaluators.ladder.failure import failure_of
from ..evaluators.ladder.trial_files import ERROR
from ..evaluators.measurement import Infeasible, Outcome, cut
from ..evaluators.promotion import savings, stops_early
from ..pareto.model import BASELINE, Model
from ..storage.repeated_failures import RepeatedFailures, failed_repeatedly
from ..storage.study_store import ATTEMPTS, StudyStore
from .dispatch import RunContext, run_requests
from .interrupts import Interrupted
from .requests import trial_request
from .status import SearchStatus, in_words
from .time_budget import TimeBudget
from .workers.base import LostTrial

logger = logging.getLogger(__name__)

LOOK_S = 15.0
"""Seconds between two searches for trials of dead drivers."""


class Driver:
    """Runs the trials of a study.

    Args:
        context: the run.
        store: the study.
        meanwhile: called again and again while trials run.
    """

    def __init__(
        self, context: RunContext, store: StudyStore, *, meanwhile: Callable[[], object] = lambda: None
    ) -> None:
        self.context = context
        self.store = store
        self.meanwhile = meanwhile
        self.repeated: RepeatedFailures | None = None
        store.notice = context.progress.notice
        self._budget = TimeBudget(context, store)
        self._status = SearchStatus(context, store, self._budget)
        self._running: dict[str, float] = {}
        self._lost_in_a_row = 0
        self._kept = {f"trials/{folder.name}" for folder in context.rundir.trials.glob("*")}
        self._checked = time.monotonic()

    def run(self) -> None:
        """Evaluate trials until the budget is spent.

        Raises:
            Interrupted: the user wants to stop; the trials that were running are put back.
            StudyError: the first candidates failed alike, and none was scored.
        """
        self._tidy()
        try:
            run_requests(
                self.context,
                self._next_request,
                self._take_result,
                running=self._running,
                expects_more=lambda: self._may_begin() or self._awaits_others(),
                each_round=self._each_round,
            )
        except Interrupted:
            for folder in self._running:
                self.store.lost(_number(folder), "it was interrupted", counts=False)
            raise
        self._conclude()

    def _conclude(self) -> None:
        """Report why the search ended early, and what early stopping saved."""
        if not self._budget.in_time() and self.store.count() <= 1:
            self.context.progress.warning(
                "the time was over before a candidate was tried; run the same command with a larger --time-budget "
                "to resume"
            )
        if self.repeated is not None:
            self._stop(self.repeated)
        front = (model.measurement for model in self.store.found.front())
        saved = savings((trial.outcome for trial in self.store.finished() if trial.outcome), front)
        if saved:
            self.context.progress.milestone(saved)

    def _stop(self, failures: RepeatedFailures) -> None:
        """Report why the search stops, and let the next run retry the trials that failed.

        Raises:
            StudyError: nothing was scored but the unchanged network.
        """
        self.store.void(failures)
        if all(isinstance(found, Infeasible) and failure_of(found) for found in self.store.candidates().values()):
            raise StudyError(f"{failures}.")
        self.context.progress.warning(
            f"{failures}. Candidates that were scored count untrained; then run the same command to resume"
        )

    def _next_request(self) -> Request | None:
        """Return the next trial's request; a candidate with a known outcome gets it at once."""
        while self._may_begin():
            trial = self.store.ask()
            known = self.store.outcome_of(trial.candidate, trial.role)
            if known is None:
                return trial_request(self.context, self.store, trial, self._with_files())
            self.store.tell(trial.number, known)
            logger.info("trial %d finished: its candidate was evaluated before", trial.number)
        return None

    def _may_begin(self) -> bool:
        """Return whether another trial may begin.

        When the time is over only the baseline may. After repeated failures none may, unless a running trial succeeds.
        """
        if self.repeated is not None:
            return False
        if not self._budget.in_time():
            return not self._running and not self._has_baseline() and self.store.awaits(BASELINE)
        at_work = len(self._running) + self.store.elsewhere()
        return self.store.count() + at_work < self.context.options.trials

    def _awaits_others(self) -> bool:
        """Return whether trials of other drivers count towards this study and may yet be put back."""
        if self.repeated is not None or (self._has_baseline() and not self._budget.in_time()):
            return False
        return self.store.count() < self.context.options.trials and self.store.elsewhere() > 0

    def _has_baseline(self) -> bool:
        """Return whether the unchanged network was measured; without it there is no result."""
        return any(model.id == BASELINE for model in self.store.found.references())

    def _each_round(self) -> None:
        """Withdraw what is out of time, show the progress, and put back the trials of dead drivers."""
        if not self._budget.in_time() and self._has_baseline():
            for request in self.context.workers.withdraw():
                del self._running[request.folder]
                self.store.lost(_number(request.folder), "the time was over", counts=False)
        self._show()
        if time.monotonic() - self._checked > LOOK_S:
            self._checked = time.monotonic()
            self.store.recover()
        self.meanwhile()

    def _show(self) -> None:
        self.context.progress.notice(self._status.state(self._running, self.context.workers.blocked_reason()))

    def _take_result(self, request: Request, result: Outcome | LostTrial) -> None:
        number = _number(request.folder)
        self._kept.add(request.folder)
        if isinstance(result, LostTrial):
            self.context.progress.warning(f"trial {number}: {result.why}; it is tried again")
            self.store.lost(number, result.why, counts=result.counts)
            self._give_up(result)
        else:
            self._lost_in_a_row = 0
            self._tell(number, result)

    def _give_up(self, lost: LostTrial) -> None:
        """End a run that loses trial after trial for a reason outside of the trials.

        Raises:
            UsageError: too many were lost in a row.
        """
        self._lost_in_a_row += not lost.counts
        if self._lost_in_a_row > ATTEMPTS * (self.context.options.workers or 1 + len(self._running)):
            raise UsageError(
                f"trials must have somewhere to keep their files; {self._lost_in_a_row} in a row were lost, the last "
                f"one as {lost.why}. No finished trial is lost: run the same command to resume."
            )

    def _tell(self, number: int, outcome: Outcome) -> None:
        """Tell the study what came of a trial.

        Raises:
            StudyError: the unchanged network is infeasible.
        """
        progress = self.context.progress
        if isinstance(outcome, Infeasible) and self.store.role(number) == BASELINE:
            self.store.lost(number, outcome.reason, counts=False)  # for the next run to try again
            raise StudyError(f"the unchanged network cannot be evaluated: {outcome.reason}")
        self.store.tell(number, outcome)
        self.repeated = failed_repeatedly(self.store.candidates())
        if not isinstance(outcome, Infeasible):
            measured = outcome[0]
            unit = self.store.limits.told_by(outcome).metric_unit
            logger.info("trial %d finished: %s", number, in_words(measured, unit))
            if measured.failure is not None:
                progress.warning(f"trial {number} could not be trained: {measured.failure.reason}")
        elif cut(outcome) or stops_early(outcome):
            logger.info("trial %d stopped early: %s", number, outcome.reason)
        else:
            progress.milestone(f"trial {number} is infeasible: {outcome.reason}")
        self._tidy()

    def _with_files(self) -> list[Model]:
        """Return the models to keep the files of: those of the fronts, and those with a role in the report."""
        found = self.store.found
        return [*found.references(), *(model for model in (*found.front(), *found.alone()) if model.role == "front")]

    def _tidy(self) -> None:
        """Delete the files of trials that have ended or left the front; a folder with a traceback stays."""
        rundir = self.context.rundir
        kept = {model.path for model in self._with_files()} | self._running.keys()
        gone = self._kept - kept
        left = set()
        for folder in gone:
            if not (rundir.path / folder / ERROR).exists():
                shutil.rmtree(rundir.path / folder, ignore_errors=True)
            try:
                rundir.artifacts.delete(folder)
            except LostError:
                left.add(folder)  # for the next time
        self._kept = kept | left


def _number(folder: str) -> int:
    """Return the number of the trial that a folder belongs to."""
    return int(folder.rpartition("/")[2])
