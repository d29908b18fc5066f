"""Times the stages of one candidate, to estimate a run that has no trials yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from ..compressors.batches import batches_in
from ..compressors.pipeline import apply_candidate
from ..errors import InfeasibleError, UsageError
from ..evaluators.ladder.served import Served, source_of
from ..evaluators.meters.isolated_engine import engine
from ..evaluators.meters.latency import PROBE, Meter
from ..evaluators.runtime import Runtime
from ..profiles.baseline import baseline_required, export_baseline
from ..profiles.setup import Setup
from ..spaces.uniform import uniform
from .options import Options
from .prepare import baseline_meter
from .progress import Progress
from .time_budget import CAREFUL_PROCESSES, StageTimes

T = TypeVar("T")

STEPS = 6
"""Least training steps of the candidate."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one candidate and the baseline took.

    Attributes:
        stages: seconds of the candidate's stages.
        export_s: seconds to export the baseline, and to serve it once.
        calibrate_s: seconds to time the baseline, not with care.
        baseline_ms: the baseline's latency.
    """

    stages: StageTimes
    export_s: float
    calibrate_s: float
    baseline_ms: float


def time_stages(setup: Setup, runtime: Runtime, options: Options, progress: Progress) -> Timing:
    """Export and time the baseline; build, time, score and train one candidate for a few steps.

    Raises:
        UsageError: the unchanged network cannot be exported, served or timed, or the candidate cannot.
    """
    with baseline_required(setup.decided):
        progress.notice("exporting the baseline")
        export_s, (_, artefact) = timed(lambda: export_baseline(setup.task, runtime, setup.supplies))
        meter = baseline_meter(runtime, artefact, setup.supplies, options)
        progress.notice("timing it")
        calibrate_s, calibration = timed(lambda: meter.calibrate(PROBE))
    meter = baseline_meter(runtime, artefact, setup.supplies, options, (calibration.median_ms, 0.0))
    try:
        stages = time_candidate(setup, runtime, meter, progress)
    except InfeasibleError as error:
        raise UsageError(
            "--dry-run must build, time and train one candidate to estimate the time; that failed: "
            f"{error.reason.rstrip('.')}. Run without it: a run leaves out what cannot be built"
        ) from error
    return Timing(stages=stages, export_s=export_s, calibrate_s=calibrate_s, baseline_ms=calibration.median_ms)


def time_candidate(setup: Setup, runtime: Runtime, meter: Meter, progress: Progress) -> StageTimes:
    """Return the times of a trial's stages, from a candidate whose choices are all half."""
    task, supplies = setup.task, setup.supplies
    candidate = uniform(setup.space, 0.5, quantized=True)
    progress.notice("building and timing one candidate")
    started = time.monotonic()
    built = apply_candidate(task, candidate, supplies, epochs=0)
    artefact = runtime.convert(source_of(built, supplies))
    with engine(runtime, artefact, threads=1) as served:
        build_s = time.monotonic() - started
        score_s, _ = timed(lambda: task.metric(Served(served, supplies.piece), task.validation))
    measure_s, latency = timed(lambda: meter.measure(artefact, PROBE))
    progress.notice("training it for a few steps")
    steps: list[float] = []
    batches = batches_in(task.train)
    apply_candidate(task, candidate, supplies, epochs=2 * STEPS / batches, pause=lambda: steps.append(time.monotonic()))
    steps_s = sorted(after - before for before, after in pairwise(steps))
    usual = steps_s[: max(1, len(steps_s) * 3 // 4)]  # the longest ones include other work
    return StageTimes(
        build_s=build_s,
        measure_s=measure_s,
        careful_s=CAREFUL_PROCESSES * measure_s / max(1, latency.processes),
        score_s=score_s,
        epoch_s=batches * sum(usual) / len(usual) if usual else 0.0,
    )


def timed(do: Callable[[], T]) -> tuple[float, T]:
    """Return how many seconds a call took, and its result."""
    started = time.monotonic()
    done = do()
    return time.monotonic() - started, done
