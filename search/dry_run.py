"""Estimates what a command would do and how long it would take, without training or writing anything.

The estimate uses the run's trials if it has enough. Otherwise one candidate is built, timed, scored and trained for a
few steps, here and now.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import RunDirectoryError, StorageError
from ..evaluators.measurement import Infeasible, Measurement, representative
from ..profiles.profile import Profile
from ..profiles.profiler import SHARES, estimate_profile_s
from ..profiles.setup import Setup
from ..spaces.candidate import ACTIVATION, DEPTH, RESOLUTION
from ..spaces.space import Space
from ..storage.fingerprint import check_same
from ..storage.run import open_run
from ..studies.task import Task
from ..studies.validate import validate
from .finalists import FINALISTS
from .options import Options
from .preflight import Preflight, check_options, in_unit
from .prepare import CALIBRATE, PROFILE, find_setup, processes_for, read_profile
from .progress import Progress
from .samplers.initial_design import DESCENTS, EVEN, warm_start
from .stage_timing import time_stages
from .time_budget import StageTimes, reserved_s, stage_times
from .workers.capacity import of_run

TRAINED = (0.25, 0.6, 1.0)
"""Share of the trials that is trained if no trial shows it: at least, probably, at most."""

ROLES = 5
"""The baseline and the reference baselines."""

WORKERS_S = 10.0
"""Seconds until Ray and its workers have started."""

TRIED = "one candidate that was built, timed and trained for a few steps just now"

ENOUGH = 5
"""Trials that must have finished before they predict the next ones' time."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The choices of one kind on offer: their number, and the fewest and most levels of one."""

    name: str
    choices: int
    least: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Span:
    """Seconds: at least, probably, at most."""

    least_s: float
    about_s: float
    most_s: float

    def __add__(self, other: Span) -> Span:
        return Span(
            least_s=self.least_s + other.least_s,
            about_s=self.about_s + other.about_s,
            most_s=self.most_s + other.most_s,
        )


@dataclass(frozen=True, kw_only=True)
class RunEstimate:
    """A plan of what a command would do.

    Attributes:
        study: name of the study.
        target: what a model must meet, in words.
        runtimes: runtimes that would serve the models.
        out: the run directory.
        baseline_ms: latency of the unchanged network on the first runtime; None if unknown.
        axes: the space.
        log10_candidates: logarithm to base 10 of the number of candidates.
        distance: distance between a student's outputs and its teacher's.
        distance_why: why it was chosen.
        profiled: whether the run has a profile, so that levels that do not pay are left out.
        finished: trials that the run has finished.
        trials: total number of trials in the study.
        starts: candidates of the initial design: exactly if the profile exists, otherwise at most; 0 if they were
            started.
        epochs: passes over the training data in a trial.
        final_epochs: passes for each model of the front.
        models: most models in the final evaluation; 0 if it is done.
        workers: parallel trials.
        machine: workers and their threads on the machine's cores and memory, in words; empty if there are none.
        network: time until the first trial.
        search: time of the trials.
        finals: time of the final evaluation.
        costs: seconds of a trial's stages.
        rests_on: what the times are based on, in words.

    """

    study: str
    target: str
    runtimes: tuple[str, ...]
    out: str
    baseline_ms: float | None
    axes: tuple[Axis, ...]
    log10_candidates: float
    distance: str
    distance_why: str
    profiled: bool
    finished: int
    trials: int
    starts: int
    epochs: float
    final_epochs: float
    models: int
    workers: int
    machine: str
    network: Span
    search: Span
    finals: Span
    costs: StageTimes
    rests_on: str

    @property
    def whole(self) -> Span:
        """Total time."""
        return self.network + self.search + self.finals


@dataclass(frozen=True)
class _Known:
    """The basis of an estimate.

    Attributes:
        costs: seconds of a trial's stages.
        trained: share of the trials that is trained: at least, probably, at most.
        network_s: seconds until the first trial.
        words: where these come from.
        baseline_ms: latency of the unchanged network; None if it was not timed for this.
    """

    costs: StageTimes
    trained: tuple[float, ...]
    network_s: float
    words: str
    baseline_ms: float | None = None


def estimate_run(name: str, load: Callable[[], Task], options: Options, progress: Progress) -> RunEstimate:
    """Return the plan of `run` with the same arguments.

    Raises:
        UsageError: see `run`.
    """
    flight = check_options(name, options)
    flight.close()
    valid = validate(load())
    for note in valid.notes:
        progress.milestone(note)
    options = in_unit(options, valid.task, check_same(flight.options.out, valid.task))
    setup = find_setup(valid.task, flight.servers, options, progress)
    task = setup.task
    profile = read_profile(options.out / PROFILE)
    done, ended = _finished(options)
    capacity = of_run(task, options)
    known = _of_trials(done, options) or _of_candidate(
        setup, flight, progress, profiled=profile is not None, processes=processes_for(capacity.workers)
    )
    space = setup.space if profile is None else profile.space(setup.space)
    cores = math.inf if options.ray_address else os.cpu_count() or 1  # more workers than cores are no faster
    workers = int(min(max(1, capacity.workers), cores))
    network, search, finals = _times(known, options, task, done=len(done), workers=workers)
    return RunEstimate(
        study=name,
        target=str(options.limits),
        runtimes=tuple(server.name for server in flight.servers),
        out=str(options.out),
        baseline_ms=known.baseline_ms if profile is None else profile.baseline_ms,
        axes=_axes(space),
        log10_candidates=sum(math.log10(size) for size in space.sizes.values()),
        distance=setup.distance.name,
        distance_why=setup.distance.why,
        profiled=profile is not None,
        finished=len(done),
        trials=options.trials,
        starts=0 if done else _starts(space, profile, options, student=task.student is not None),
        epochs=options.passes(task)[0],
        final_epochs=options.passes(task)[1],
        models=0 if ended else ROLES + _front(options),
        workers=capacity.workers,
        machine=capacity.words,
        network=network,
        search=search,
        finals=_span((0.0, 0.0, 0.0)) if ended else finals,
        costs=known.costs,
        rests_on=known.words,
    )


def _times(known: _Known, options: Options, task: Task, *, done: int, workers: int) -> tuple[Span, Span, Span]:
    """Return the times until the first trial, of the trials, and of the final evaluation."""
    (epochs, final_epochs), costs = options.passes(task), known.costs
    left = max(0, options.trials - done)
    search = [costs.trials_s(left, epochs=epochs, trained=share, workers=workers) for share in known.trained]
    front = _front(options)
    counts = (ROLES + 1, ROLES + (front + 1) // 2, ROLES + front)
    finals = [costs.final_evaluation_s(count, epochs=final_epochs, workers=workers) for count in counts]
    budget_s = options.time_budget_s
    if budget_s is not None:
        search = [min(s, budget_s - reserved_s(end, budget_s)) for s, end in zip(search, finals, strict=True)]
    begin = known.network_s + (WORKERS_S if options.workers != 0 else 0.0)
    return Span(least_s=0.7 * begin, about_s=begin, most_s=1.5 * begin), _span(search), _span(finals)


def _span(seconds: Sequence[float]) -> Span:
    least, about, most = seconds
    return Span(least_s=least, about_s=about, most_s=most)


def _front(options: Options) -> int:
    """Return how many models of the front get the final evaluation, at most."""
    return min(FINALISTS, max(1, options.trials - ROLES))


def _axes(space: Space) -> tuple[Axis, ...]:
    found: dict[str, list[int]] = {}
    for choice in space.choices:
        found.setdefault(choice.axis, []).append(len(choice.levels))
    return tuple(Axis(name=n, choices=len(sizes), least=min(sizes), most=max(sizes)) for n, sizes in found.items())


def _starts(space: Space, profile: Profile | None, options: Options, *, student: bool) -> int:
    """Return how many candidates the initial design has, or may have if there is no profile."""
    if profile is None:
        more = sum(any(True for _ in space.on(axis)) for axis in (DEPTH, ACTIVATION, RESOLUTION))
        return min(options.trials, ROLES + student + 2 * len(DESCENTS) + 1 + more + len(SHARES) + len(EVEN))
    target_ms = options.target_ms / profile.slowness  # predictions are of the first device
    return min(options.trials, len(warm_start(space, profile, target_ms, student=student)))


def _finished(options: Options) -> tuple[list[Measurement | Infeasible], bool]:
    """Return the outcomes of a run, none if it has not started, and whether nothing is left to do."""
    try:
        run = open_run(options.out, storage=options.storage)
    except (RunDirectoryError, StorageError):
        return [], False
    done = [representative(trial.outcome) for trial in run.trials if trial.outcome is not None]
    same = run.asked is not None and run.asked.limits == options.limits
    return done, run.finished and same and len(done) >= options.trials


def _of_trials(done: Sequence[Measurement | Infeasible], options: Options) -> _Known | None:
    """Return the stages' times from the trials of a run; None if there are too few."""
    costs = stage_times(found for found in done if isinstance(found, Measurement))
    if costs is None or len(done) < ENOUGH:
        return None
    share = sum(isinstance(found, Measurement) and found.epochs > 0 for found in done) / len(done)
    words = f"the {len(done)} trials that {options.out} has"
    return _Known(costs, (0.7 * share, share, min(1.0, 1.5 * share)), costs.build_s, words)


def _of_candidate(setup: Setup, flight: Preflight, progress: Progress, *, profiled: bool, processes: int) -> _Known:
    """Return the stages' times from one candidate that is built, timed, scored and trained for a few steps.

    Raises:
        UsageError: see `time_stages`.
    """
    runtimes, options = flight.servers, flight.options
    timing = time_stages(setup, runtimes[0], options, progress)
    stages, network_s = timing.stages, timing.export_s
    if not profiled:
        network_s += timing.calibrate_s + _calibration_s(timing.baseline_ms)
        network_s += estimate_profile_s(
            setup.task,
            setup.supplies,
            setup.space,
            build_s=stages.build_s,
            probe_s=timing.calibrate_s,
            gaps_s=CALIBRATE.min_windows * CALIBRATE.gap_s,
            processes=processes,
            notice=progress.notice,
        )
    several = len(runtimes)
    stages = replace(stages, measure_s=several * stages.measure_s, careful_s=several * stages.careful_s)
    trained = TRAINED if options.promote and options.deployments == 1 else (1.0, 1.0, 1.0)
    words = TRIED + (" on this machine, not on the cluster" if options.ray_address else "")
    return _Known(stages, trained, network_s, words, timing.baseline_ms)


def _calibration_s(baseline_ms: float) -> float:
    """Return the seconds of the calibration's windows, for a baseline's latency."""
    window_s = max(CALIBRATE.min_window_s, CALIBRATE.min_runs * baseline_ms / 1e3)
    return CALIBRATE.min_windows * (CALIBRATE.gap_s + window_s)
