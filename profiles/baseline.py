"""The unchanged network, exported and served: everything else is compared to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ..compressors.pipeline import Compressed, apply_candidate
from ..compressors.technique import Supplies
from ..errors import InfeasibleError, StudyError
from ..evaluators.ladder.engines import Engines
from ..evaluators.ladder.served import Served, checked, source_of
from ..evaluators.meters.isolated_engine import engine
from ..evaluators.runtime import Runtime
from ..spaces.candidate import Candidate
from ..studies.task import Task


@contextmanager
def baseline_required(decided: Sequence[str] = ()) -> Iterator[None]:
    """Refuse a study whose unchanged network cannot be exported, served or timed.

    Args:
        decided: lines of the network's code whose decisions the exporter fixed, though they depend on the inputs.

    Raises:
        StudyError: in place of the `InfeasibleError`, with its reason.
    """
    try:
        yield
    except InfeasibleError as error:
        hint = f" (the exporter fixed decisions that depend on the inputs, in {', '.join(decided)})" if decided else ""
        raise StudyError(
            "the unchanged network must be exported, served and timed before anything can be compared to it; that "
            f"failed: {error.reason.rstrip('.')}{hint}. Change what its forward does, or serve it with another runtime"
        ) from error


def export_baseline(task: Task, runtime: Runtime, supplies: Supplies) -> tuple[Compressed, bytes]:
    """Return the unchanged network, and the runtime's file of it, whose outputs are those of PyTorch.

    Raises:
        InfeasibleError: it cannot be exported or served, or the runtime's outputs differ.
    """
    baseline = apply_candidate(replace(task, student=None), Candidate(), supplies, epochs=0)
    with Engines() as engines:
        artefact, _ = checked(baseline, runtime, supplies, engines, quantized=False)
    return baseline, artefact


def export_student(task: Task, runtime: Runtime, supplies: Supplies) -> tuple[Compressed, bytes]:
    """Return the unchanged student, and the runtime's file of it; untrained, it is not checked."""
    student = apply_candidate(task, Candidate(), supplies, epochs=0)
    return student, runtime.convert(source_of(student, supplies))


def cost_of_rounding(
    task: Task, runtime: Runtime, baseline: Compressed, artefact: bytes, piece: int | None = None
) -> str:
    """Say what a runtime's own rounding does to the unchanged network's metric.

    Args:
        task: gives the metric and the validation data.
        runtime: rounds the weights by itself.
        baseline: the unchanged network.
        artefact: the runtime's file of it.
        piece: see `Served`.
    """
    with engine(runtime, artefact, threads=1) as built:
        served = float(task.metric(Served(built, piece), task.validation))
    exact = float(task.metric(baseline.model, task.validation))
    return (
        f"{runtime.name} rounds by itself: the unchanged network's metric is {served:.4g} in it and {exact:.4g} "
        "in PyTorch"
    )
