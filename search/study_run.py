"""A run: from a study and a target to a Pareto front on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import StudyError
from ..evaluators.evaluator import Evaluator, Host
from ..evaluators.measurement import Infeasible
from ..pareto.front import ParetoFront, build_front
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model
from ..reports import write as files
from ..storage.artifacts import RemoteArtifacts
from ..storage.backends import quiet
from ..storage.repeated_failures import RepeatedFailures
from ..storage.run import FINISHED
from ..storage.run_directory import RunDirectory, room
from ..storage.shared_start import prepare_exclusively
from ..storage.study_store import Start, StudyStore
from ..storage.trials import started_trials
from .dispatch import RunContext
from .driver import Driver
from .final_evaluation import FinalEvaluation, with_trial_results
from .finalists import FIRST, finalists, likely_finalists
from .interrupts import Interrupted, Interrupts
from .options import Options
from .preflight import Preflight, check_options, in_unit
from .progress import Logged, Progress, Silent, Throttled
from .samplers import create
from .samplers.initial_design import warm_start
from .workers.base import Workers
from .workers.capacity import FILE as MEMORY
from .workers.capacity import of_run
from .workers.cluster import Cluster, joined
from .workers.memory_limit import MemoryLimited
from .workers.shipping import WithArtifacts
from .workers.start import pickled, workers_for

if TYPE_CHECKING:
    from ..studies.task import Task
    from .prepare import Prepared

logger = logging.getLogger(__name__)

NEAREST = 3
"""How many models get the final evaluation if none meets the target."""


def run(
    name: str,
    load: Callable[[], Task],
    options: Options,
    progress: Progress | None = None,
    *,
    source: Mapping[str, object] | None = None,
) -> ParetoFront:
    """Start or resume a run of a study.

    Args:
        name: name of the study; a run directory can only be resumed with the study of its name.
        load: returns the task; called after all other checks.
        options: how to run it.
        progress: reports the progress.
        source: the words that name the study, ``study`` and what else selects the network; kept for the command that
            resumes.

    Raises:
        UsageError: the call cannot do what was asked; nothing was written.
        Interrupted: the user stopped the run; its ``front`` is the front so far, and the same arguments resume it.
    """
    progress = Logged(progress or Silent())
    started = time.monotonic()
    with closing(check_options(name, options)) as asked:
        return _run(name, _valid(load, progress), asked, progress, source, started)


def _run(
    name: str,
    task: Task,
    asked: Preflight,
    progress: Progress,
    source: Mapping[str, object] | None,
    started: float,
) -> ParetoFront:
    """Prepare the search of a checked task in its run directory, then run it."""
    from ..storage.fingerprint import check_same, keep  # noqa: PLC0415  # start-up time: torch is slow to import

    fingerprint = check_same(asked.options.out, task)
    options = in_unit(asked.options, task, fingerprint)
    if options.workers != 0:
        pickled(task)  # raises before anything is measured
    logger.info("study %s, in %s: target %g ms, %d trials", name, options.out, options.target_ms, options.trials)
    with (
        room(options.out),
        joined(options, progress) as cluster,
        closing(RunDirectory(options.out, asked.identity, _invocation(options, task, source))) as rundir,
    ):
        capacity = of_run(task, options, cluster)
        if capacity.words:
            progress.milestone(capacity.words)
        options = replace(options, workers=capacity.workers)
        keep(rundir, fingerprint)
        prepared = _prepared(task, asked, rundir, progress, cluster, fingerprint)
        store = StudyStore(rundir.path, asked.database, name, prepared.space, options.limits)
        with closing(store), quiet(), _unless_nothing_came(rundir, store):
            return StudyRun(task, options, progress, rundir, prepared, store, cluster, capacity.threads).search(started)


def _valid(load: Callable[[], Task], progress: Progress) -> Task:
    """Return a task that was loaded and checked."""
    loaded = load()  # may show a training's progress bar of its own
    from ..studies.validate import validate  # noqa: PLC0415  # start-up time: torch is slow to import

    valid = validate(loaded)
    for note in valid.notes:
        progress.milestone(note)
    return valid.task


def _invocation(options: Options, task: Task, source: Mapping[str, object] | None) -> dict[str, object]:
    """Return what the run directory keeps of the call, for the command that resumes."""
    words = dict(source or {})
    about = {"license": task.license, "description": task.description}
    return options.invocation(str(words.pop("study", "")), words, about).to_dict()


@contextmanager
def _unless_nothing_came(rundir: RunDirectory, store: StudyStore) -> Iterator[None]:
    """Delete a new run directory whose network, and everything made of it, could not be evaluated."""
    try:
        yield
    except StudyError:
        if all(isinstance(found, Infeasible) for found in store.candidates().values()):
            _taken_away(rundir)
        raise


def _prepared(
    task: Task,
    asked: Preflight,
    rundir: RunDirectory,
    progress: Progress,
    cluster: Cluster | None,
    fingerprint: Mapping[str, object],
) -> Prepared:
    """Return the start of the search; a directory that was started with an unusable network is deleted."""
    from .prepare import prepare  # noqa: PLC0415  # start-up time: torch is slow to import

    try:
        with prepare_exclusively(asked.database, task, rundir, asked.identity, progress.notice, fingerprint):
            return prepare(task, asked.servers, rundir, asked.options, progress, cluster)
    except Exception:  # also unforeseen ones
        _taken_away(rundir)
        raise


def _taken_away(rundir: RunDirectory) -> None:
    """Delete a directory that was started with an unusable study, which would be in the way of the fixed one."""
    if rundir.fresh:
        rundir.discard()


@dataclass(frozen=True)
class StudyRun:
    """A run whose search can start."""

    task: Task
    options: Options
    progress: Progress
    rundir: RunDirectory
    prepared: Prepared
    store: StudyStore
    cluster: Cluster | None
    threads: int
    """Threads on which each worker trains."""

    def search(self, started: float) -> ParetoFront:
        """Run the trials and the final evaluation; when interrupted, keep the results so far."""
        interrupts = Interrupts()
        self._begin()
        with (
            self._workers() as workers,
            interrupts.handled(),  # second, since Ray sets handlers of its own when it starts
            self._meanwhile() as meanwhile,
        ):
            try:
                context = self._context(workers, interrupts, started)
                driver = Driver(context, self.store, meanwhile=meanwhile)
                driver.run()
                if driver.repeated is not None:
                    self._allow_retraining(driver.repeated)
                models = self._finish(context)
                if workers.peak_bytes():
                    self.rundir.write_json(MEMORY, {"trial_bytes": workers.peak_bytes()})
            except Interrupted as interrupted:
                logger.info("run interrupted; the same call resumes it")
                found = self._found()
                if found:
                    found = with_trial_results(self.rundir, found, self.progress)
                    interrupted.front = self._publish(found, state="interrupted")
                raise
        return self._publish(models, state="finished")

    def _allow_retraining(self, failures: RepeatedFailures) -> None:
        """Allow the next run another training if nothing was trained so far: that is not another study."""
        from ..storage.fingerprint import loosen  # noqa: PLC0415  # start-up time: torch is slow to import

        outcomes = self.store.candidates().values()
        if failures.in_training and not any(isinstance(found, tuple) and found[0].epochs for found in outcomes):
            loosen(self.rundir, self.store.study if self.options.storage else None)

    @contextmanager
    def _meanwhile(self) -> Iterator[Callable[[], object]]:
        """Yield the function to call repeatedly during the trials, which reports them."""
        report = Throttled(self._report)
        if self.options.tensorboard is None:
            yield report
            return
        from .tensorboard import TensorBoardWriter  # noqa: PLC0415  # start-up time: only --tensorboard needs it

        with TensorBoardWriter(self.options.tensorboard, self.store) as board:

            def both() -> None:
                report()
                board()

            yield both

    def _workers(self) -> AbstractContextManager[Workers]:
        return workers_for(self._evaluator(), self._host, self.options.workers, self.cluster, threads=self.threads)

    def _evaluator(self) -> Evaluator:
        """Return the evaluator of the workers, and set where they keep their files."""
        evaluator: Evaluator = self.prepared.ladder
        if self.options.artifacts is not None:
            self.rundir.artifacts = RemoteArtifacts(f"{self.options.artifacts}/{self.store.place}")
            evaluator = WithArtifacts(self.prepared.ladder, self.rundir.artifacts)
        if self.options.trial_memory_bytes is not None:
            evaluator = MemoryLimited(evaluator, self.options.trial_memory_bytes)
        return evaluator

    @property
    def _host(self) -> Host:
        """What workers provide; they may have working directories of their own, so the path is absolute."""
        return Host(folder=self.rundir.path.absolute(), meters=self.prepared.meters)

    def _context(self, workers: Workers, interrupts: Interrupts, started: float) -> RunContext:
        epochs, final_epochs = self.options.passes(self.task)
        return RunContext(
            options=self.options,
            rundir=self.rundir,
            workers=workers,
            epochs=epochs,
            final_epochs=final_epochs,
            student=self.task.student is not None,
            progress=self.progress,
            interrupts=interrupts,
            started=started,
        )

    def _begin(self) -> None:
        from ..studies.counted import counted  # noqa: PLC0415  # start-up time: torch is slow to import

        options, prepared = self.options, self.prepared
        self.store.study.sampler = create(
            options.sampler,
            space=prepared.space,
            profile=prepared.profile,
            judge=self.store,
            seed=options.seed,
            finished=self.store.count(),
        )
        self.rundir.write_json(files.COUNTED, counted(self.task))
        if self.store.begun:
            logger.info("the study resumes: %d of %d trials are finished", self.store.count(), options.trials)
        self.store.begin(() if self.store.begun else self._starts())

    def _starts(self) -> list[Start]:
        prepared = self.prepared
        target_ms = self.options.target_ms / prepared.profile.slowness  # predictions are of the first device
        return warm_start(prepared.space, prepared.profile, target_ms, student=self.task.student is not None)

    def _found(self) -> list[Model]:
        """Return the results of an interrupted run: the current finalists, and earlier final evaluations."""
        models = self.store.models()
        ids = {model.id for model in finalists(models, self.store.limits)}
        ids |= {folder.name for folder in self.rundir.path.glob("models/*")} if ids else set()
        return self._whole([model for model in models if model.id in ids])

    def _whole(self, models: Sequence[Model]) -> list[Model]:
        return [self.store.found.whole(model) for model in models]

    def _finish(self, context: RunContext) -> list[Model]:
        finals = FinalEvaluation(context, self.prepared.meters)
        models, limits = self.store.models(), self.store.limits
        first = [*self._whole(finalists(models, limits, FIRST)), *self._nearest()]
        return finals.run(first, lambda ended: self._whole(likely_finalists(models, ended, limits)))

    def _nearest(self) -> list[Model]:
        """Return, if no trial met the limits, the nearest of those that were stopped for them."""
        limits = self.store.limits
        if any(limits.satisfied_by(m.measurement) for m in self.store.models()):
            return []
        return self.store.nearest_cut(NEAREST)

    def _report(self) -> None:
        """Write the report of the results so far."""
        models = self.store.models()
        if any(model.role == BASELINE for model in models):
            front = build_front(models, self.prepared.profile, self._limits)
            trials = started_trials(self.store.study)
            profile = self.prepared.profile
            with suppress(OSError):  # a full disk ends the run when it loses a trial, not here
                files.write_report(self.rundir.path, front, trials, profile, state="running", quick=True)

    @property
    def _limits(self) -> Limits:
        """The limits, in the unit that fits all measurements."""
        return self.store.limits.told_by(model.measurement for model in self.store.models())

    def _publish(self, models: list[Model], *, state: files.State) -> ParetoFront:
        logger.info("run %s: %d models in %s", state, len(models), self.rundir.path)
        limits = self._limits
        front = build_front(models, self.prepared.profile, limits, where=self.rundir.path)
        if state == "finished":
            self.rundir.write_json(FINISHED, {"trials": self.store.count(), "limits": limits.asked})
        files.write(self.rundir, front, models, self.store, self.prepared.profile, state=state)
        return front
