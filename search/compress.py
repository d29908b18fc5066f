"""The whole job: from a study and a target to a Pareto front on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import AutocompressError, UsageError
from ..evaluators import runtimes
from . import rundir as run_directory
from .drive import Driver, Interrupted, Interrupts
from .finals import Finals, as_found, finalists
from .front import Model, ParetoFront, everywhere, select
from .options import Options, parse_latency
from .progress import Progress, Silent
from .report import files
from .rundir import RunDirectory
from .samplers import create
from .warmstart import BASELINE, warm_start
from .workers import Workers, pickled, workers_for

if TYPE_CHECKING:
    from ..studies.task import Task
    from .prepare import Prepared
    from .store import Store

NEAREST = 3
"""How many models are taken to the end where nothing meets the target."""


def compress(study: str | Path | Task = "digits", target_latency: str = "5ms", **options: object) -> ParetoFront:
    """Return the Pareto front of compressed networks that meet a latency target, and leave it on disk.

    Args:
        study: a built-in study's name, the path of a Python file with ``task()``, ``torchvision:NAME``,
            ``timm:NAME``, or a `Task`.
        target_latency: a number with a unit, such as ``"5ms"``.
        options: see `Options`; ``out`` defaults to ``runs/STUDY``.

    Raises:
        UsageError: something that was asked for cannot be done; nothing was written.
        Interrupted: the user ended the run; what was found is on disk, and the same call goes on.
    """
    from ..studies import loading
    from ..studies.names import study_name
    from ..studies.task import Task

    target_ms = parse_latency(target_latency)
    if isinstance(study, Task):
        task = study
        name, load = "task", lambda: task
    else:
        spec = str(study)
        name, load = study_name(spec), lambda: loading.load(spec)
    out = Path(options.get("out", Path("runs", name)))  # type: ignore[arg-type]
    settings = {**options, "out": out, "target_ms": target_ms}
    return run(name, load, Options(**settings))  # type: ignore[arg-type]


def run(name: str, load: Callable[[], Task], options: Options, progress: Progress | None = None) -> ParetoFront:
    """Run a study, or go on with it.

    Args:
        name: of the study; a run directory goes on with the study of its name only.
        load: returns the task; called after everything else has been checked.
        options: how to run it.
        progress: is told how it goes.

    Raises:
        UsageError: see `compress`.
        Interrupted: see `compress`; its ``front`` is what was found.
    """
    progress = progress or Silent()
    started = time.monotonic()
    servers = [runtimes.load(runtime) for runtime in options.runtimes]
    for server in servers:
        server.describe()  # tells at once where the runtime's package is missing
    identity = {
        "study": name,
        "runtime": ", ".join(server.name for server in servers),
        "threads": str(options.threads),
        "batch": str(options.batch or "as in the task"),
        "percentile": f"{options.percentile:g}",
    }
    if options.compact:
        identity["sizes"] = "of compact files"
    other = [server for server in servers if server.capabilities.reads[0] != ".onnx"]
    if options.compact and other:
        ending = other[0].capabilities.reads[0]
        raise UsageError(f"--compact packs ONNX files; those of {other[0].name} end in {ending}.")
    run_directory.check(options.out, identity)
    from .storage import close_storage, open_storage
    from .store import Store

    if options.storage is not None:
        close_storage(open_storage(options.out, options.storage))  # tells at once where it cannot be reached
    task = load()  # may show a training's progress bar of its own

    from ..studies.validate import validate
    from .prepare import prepare

    validate(task)
    if options.workers:
        pickled(task)  # tells before anything is measured
    with closing(RunDirectory(options.out, identity)) as rundir:
        try:
            prepared = prepare(task, servers, rundir, options, progress)
        except UsageError:
            if rundir.fresh:  # what was begun with a network that will not do is in the way of the mended one
                rundir.discard()
            raise
        student = task.student is not None
        store = Store(rundir.path, options.storage, name, prepared.space, options.target_ms, student=student)
        with closing(store):
            return _Run(task, options, progress, rundir, prepared, store).search(started)


@dataclass(frozen=True)
class _Run:
    """A run whose search can begin."""

    task: Task
    options: Options
    progress: Progress
    rundir: RunDirectory
    prepared: Prepared
    store: Store

    def search(self, started: float) -> ParetoFront:
        """Run the trials and take the front to the end; when interrupted, leave what was found."""
        interrupts = Interrupts()
        self._begin()
        with (
            workers_for(self.prepared.ladder, self.prepared.meter, self.options.workers) as workers,
            interrupts.handled(),  # second, since Ray sets handlers of its own when it starts
        ):
            try:
                Driver(
                    self.store,
                    workers,
                    self.options,
                    epochs=self._epochs,
                    rundir=self.rundir,
                    progress=self.progress,
                    interrupts=interrupts,
                    started=started,
                    student=self._student,
                ).run()
                models = self._finish(workers, interrupts)
            except Interrupted as interrupted:
                found = self._finalists()
                if found:
                    interrupted.front = self._publish(as_found(self.rundir, found))
                raise
        return self._publish(models)

    @property
    def _epochs(self) -> float:
        return self.task.epochs if self.options.epochs is None else self.options.epochs

    @property
    def _student(self) -> bool:
        return self.task.student is not None

    def _begin(self) -> None:
        options, prepared = self.options, self.prepared
        self.store.study.sampler = create(
            options.sampler,
            space=prepared.space,
            target_ms=options.target_ms,
            seed=options.seed,
            finished=len(self.store.finished()),
            predict=prepared.profile.predict_ms,
        )
        self.store.begin(warm_start(prepared.space, prepared.profile, options.target_ms, student=self._student))

    def _finalists(self) -> list[Model]:
        return finalists(self.store.models(), self.options.target_ms)

    def _finish(self, workers: Workers, interrupts: Interrupts) -> list[Model]:
        final_epochs = self.options.final_epochs
        finals = Finals(
            self.rundir,
            workers,
            self.prepared.meter,
            self.options,
            epochs=self.task.final_epochs if final_epochs is None else final_epochs,
            progress=self.progress,
            interrupts=interrupts,
            student=self._student,
        )
        return finals.run([*self._finalists(), *self._nearest()])

    def _nearest(self) -> list[Model]:
        """Return, where no trial met the target, the fastest of those that were cut for it."""
        target_ms = self.options.target_ms
        if any(m.measurement.latency.meets(target_ms) for m in self.store.models()):
            return []
        return self.store.fastest_cut(NEAREST)

    def _publish(self, models: list[Model]) -> ParetoFront:
        front = assemble(models, self.prepared, self.options.target_ms)
        files.write(self.rundir, front, self.store, self.prepared.profile.dropped)
        return front


def assemble(models: list[Model], prepared: Prepared, target_ms: float) -> ParetoFront:
    """Return the front of measured models, among which the baseline and the obvious baselines are.

    Raises:
        AutocompressError: the baseline was not measured.
    """
    baseline = next((m for m in models if m.role == BASELINE), None)
    if baseline is None:
        raise AutocompressError("the baseline was not measured yet, so there is nothing to compare to")
    front = _front(baseline, everywhere(m for m in models if m.role != BASELINE), prepared, target_ms)
    names = [measured.latency.runtime for measured in baseline.measurement.everywhere]
    if len(names) < 2:
        return front
    measured = everywhere(models)
    portfolio = []
    for name in names:
        here = [m for m in measured if m.measurement.latency.runtime == name]
        alone = next(m for m in here if m.role == BASELINE)
        portfolio.append(_front(alone, [m for m in here if m.role != BASELINE], prepared, target_ms))
    return replace(front, portfolio=tuple(portfolio))


def _front(baseline: Model, others: list[Model], prepared: Prepared, target_ms: float) -> ParetoFront:
    """Return the front of models beside a baseline."""
    chosen = [others[i] for i in select([m.measurement for m in others], target_ms)]
    front = ParetoFront(
        target_ms=target_ms,
        baseline=baseline,
        models=tuple(chosen),
        obvious=tuple(m for m in others if m.role != "front"),
        floor_ms=prepared.profile.floor_ms,
    )
    return front if front.meets_target else replace(front, reasons=prepared.profile.reasons())
