"""Estimates what a command would do and how long it would take, without training or writing anything.

The estimate uses the run's trials if it has enough. Otherwise one candidate is built, timed, scored and trained for a
few steps, here and now.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

from ..compressors.batches import batches_in
from ..compressors.pipeline import apply_candidate
from ..errors import InfeasibleError, RunDirectoryError, StorageError, StudyError
from ..evaluators.ladder.served import Served, source_of
from ..evaluators.measurement import Measurement, Outcome
from ..evaluators.meters.isolated_engine import engine
from ..evaluators.meters.latency import CAREFUL, PROBE, SEARCH, Meter, meter_for
from ..evaluators.runtime import Runtime
from ..profiles.baseline import export_baseline
from ..profiles.cost_model import LAYER_AXES
from ..profiles.latency_probes import MOST_LEVELS
from ..profiles.profile import Profile
from ..profiles.profiler import SHARES
from ..profiles.sensitivity import DAMAGES_BUDGET_S, measure_sensitivities
from ..profiles.setup import Setup, set_up
from ..spaces.space import Space
from ..spaces.uniform import uniform
from ..storage.fingerprint import check_same
from ..storage.run import open_run
from ..studies.task import Task
from ..studies.validate import validate
from .finalists import FINALISTS
from .options import Options
from .preflight import Preflight, check_options, in_unit
from .prepare import kept_profile
from .progress import Progress
from .samplers.initial_design import DESCENTS, EVEN, warm_start
from .time_budget import CAREFUL_PROCESSES, StageTimes, costs_of, reserved_s
from .workers.capacity import of_run

T = TypeVar("T")

STEPS = 6
"""Least training steps of the tried candidate."""

LOOKED_AT = 6
"""Most choices whose sensitivity is tried."""

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
        idle: why not more, if cores are idle; otherwise empty.
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
    idle: str
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
    asked = check_options(name, options)
    valid = validate(load())
    task = valid.task
    for note in valid.notes:
        progress.milestone(note)
    options = in_unit(options, task, check_same(asked.options.out, task))
    progress.notice("finding layers and groups")
    offer = set_up(task, asked.servers, batch=options.batch, compact=options.compact)
    for note in offer.notes:
        progress.milestone(note)
    task = offer.task
    profile = kept_profile(options.out / "profile.json", offer.space)
    done, ended = _finished(options)
    known = _of_trials(done, options) or _tried(task, offer, asked, progress, profiled=profile is not None)
    space = offer.space if profile is None else profile.space(offer.space)
    room = of_run(task, options)
    times = _times(known, options, task, done=len(done), workers=min(max(1, room.workers), os.cpu_count() or 1))
    return RunEstimate(
        study=name,
        target=str(options.limits),
        runtimes=tuple(server.name for server in asked.servers),
        out=str(options.out),
        baseline_ms=known.baseline_ms if profile is None else profile.baseline_ms,
        axes=_axes(space),
        log10_candidates=sum(math.log10(size) for size in space.sizes.values()),
        distance=offer.distance.name,
        distance_why=offer.distance.why,
        profiled=profile is not None,
        finished=len(done),
        trials=options.trials,
        starts=0 if done else _starts(space, profile, options, student=task.student is not None),
        epochs=options.passes(task)[0],
        final_epochs=options.passes(task)[1],
        models=0 if ended else ROLES + _front(options),
        workers=room.workers,
        idle=room.idle,
        network=times[0],
        search=times[1],
        finals=_span((0.0, 0.0, 0.0)) if ended else times[2],
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
    finals = [costs.finals_s(count, epochs=final_epochs, workers=workers) for count in counts]
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
    if profile is not None:
        return min(options.trials, len(warm_start(space, profile, options.target_ms, student=student)))
    return min(options.trials, ROLES + student + 2 * len(DESCENTS) + 1 + len(SHARES) + len(EVEN))


def _finished(options: Options) -> tuple[list[Outcome], bool]:
    """Return the outcomes of a run, none if it has not started, and whether nothing is left to do."""
    try:
        run = open_run(options.out, storage=options.storage)
    except (RunDirectoryError, StorageError):
        return [], False
    done = [trial.outcome for trial in run.trials if trial.outcome is not None]
    same = run.asked is not None and run.asked.limits == options.limits
    return done, run.finished and same and len(done) >= options.trials


def _of_trials(done: Sequence[Outcome], options: Options) -> _Known | None:
    """Return the stages' times from the trials of a run; None if there are too few."""
    costs = costs_of(outcome for outcome in done if isinstance(outcome, Measurement))
    if costs is None or len(done) < ENOUGH:
        return None
    share = sum(isinstance(outcome, Measurement) and outcome.epochs > 0 for outcome in done) / len(done)
    words = f"the {len(done)} trials that {options.out} has"
    return _Known(costs, (0.7 * share, share, min(1.0, 1.5 * share)), costs.build_s, words)


def _tried(task: Task, offer: Setup, asked: Preflight, progress: Progress, *, profiled: bool) -> _Known:
    """Build, time, score and train one candidate for a few steps.

    Raises:
        StudyError: the unchanged network cannot be exported, served or timed.
    """
    runtime, options = asked.servers[0], asked.options
    try:
        progress.notice("exporting the baseline")
        export_s, (_, artefact) = timed(lambda: export_baseline(task, runtime, offer.supplies))
        meter = meter_for(
            runtime.name,
            baseline=artefact,
            inputs=[x.numpy() for x in offer.supplies.examples],
            threads=options.threads,
            percentile=options.percentile,
        )
        progress.notice("timing it")
        calibrate_s, calibration = timed(lambda: meter.calibrate(PROBE))
        meter = replace(meter, baseline_ms=calibration.median_ms)
        costs = _costs(task, offer, runtime, meter, progress)
    except InfeasibleError as error:
        raise StudyError(
            f"the unchanged network must be exported, served and timed, and one candidate too; that failed: "
            f"{error.reason}"
        ) from error
    network_s = export_s
    if not profiled:
        window_s = CAREFUL.gap_s + max(CAREFUL.min_window_s, CAREFUL.min_runs * calibration.median_ms / 1e3)
        network_s += (
            calibrate_s + CAREFUL.min_windows * window_s + _profile_s(task, offer, costs, calibrate_s, progress)
        )
    several = len(asked.servers)
    costs = replace(costs, measure_s=several * costs.measure_s, careful_s=several * costs.careful_s)
    trained = TRAINED if options.promote and options.places == 1 else (1.0, 1.0, 1.0)
    words = TRIED + (" on this machine, not on the cluster" if options.ray_address else "")
    return _Known(costs, trained, network_s, words, calibration.median_ms)


def _costs(task: Task, offer: Setup, runtime: Runtime, meter: Meter, progress: Progress) -> StageTimes:
    """Return the times of a trial's stages, from one whose choices are all half."""
    candidate, supplies = uniform(offer.space, 0.5, quantized=True), offer.supplies
    progress.notice("building and timing one candidate")
    started = time.monotonic()
    built = apply_candidate(task, candidate, supplies, epochs=0)
    artefact = runtime.convert(source_of(built, supplies))
    with engine(runtime, artefact, threads=1) as served:
        build_s = time.monotonic() - started
        score_s, _ = timed(lambda: task.metric(Served(served, offer.supplies.piece), task.validation))
    measure_s, latency = timed(lambda: meter.measure(artefact, SEARCH))
    progress.notice("training it for a few steps")
    begun: list[float] = []
    batches = batches_in(task.train)
    apply_candidate(task, candidate, supplies, epochs=2 * STEPS / batches, pause=lambda: begun.append(time.monotonic()))
    steps_s = sorted(after - before for before, after in pairwise(begun))
    usual = steps_s[: max(1, len(steps_s) * 3 // 4)]  # without those between which something else was done
    return StageTimes(
        build_s=build_s,
        measure_s=measure_s,
        careful_s=CAREFUL_PROCESSES * measure_s / max(1, latency.processes),
        score_s=score_s,
        epoch_s=batches * sum(usual) / len(usual) if usual else 0.0,
    )


def _profile_s(task: Task, offer: Setup, costs: StageTimes, probe_s: float, progress: Progress) -> float:
    """Return the seconds to profile a network, estimated from a few of its choices."""
    progress.notice("what choices damage")
    choices = [choice for choice in offer.space.choices if choice.neutral is not None]
    few = Space(tuple(choices[:: max(1, len(choices) // LOOKED_AT)][:LOOKED_AT]))
    few_s, _ = timed(lambda: measure_sensitivities(task.base, offer.supplies, few, lambda text: None))
    damages_s = min(DAMAGES_BUDGET_S, few_s * len(choices) / max(1, len(few.choices)))
    levels = [{level for c in offer.space.on(axis) for level in c.levels if level != c.neutral} for axis in LAYER_AXES]
    built = (
        sum(min(MOST_LEVELS, len(each)) for each in levels) + len(LAYER_AXES) + 3
    )  # and the fastest and the narrow ones
    return damages_s + built * (costs.build_s + probe_s)


def timed(do: Callable[[], T]) -> tuple[float, T]:
    """Return how many seconds a call took, and its result."""
    started = time.monotonic()
    done = do()
    return time.monotonic() - started, done
