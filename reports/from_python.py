"""What a program does with a front: pick a model, or load one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..evaluators.portable import predictor
from ..pareto.front import ParetoFront
from ..pareto.model import Model
from ..storage.run import open_run
from .pick.pick import PickedModel, pick_model
from .pick.selection import parse_selection


def pick(
    front: ParetoFront,
    id: str = "",
    *,
    out: str | Path | None = None,
    force: bool = False,
    storage: str | None = None,
    knee: bool = False,
    runtime: str = "",
    target_latency: str | float | None = None,
    min_accuracy: str | float | None = None,
    min_change: str | float | None = None,
    max_size: str | float | None = None,
    max_memory: str | float | None = None,
) -> PickedModel:
    """Copy one model with a program that loads it, and check the copy, as ``autocompress pick`` does.

    The model is the recommended one, unless `id`, `knee` or limits choose another. Limits are written as for
    `compress`; they replace those of the run, and limits that are not given stay.

    Args:
        front: the front of a run directory.
        id: the model's id.
        out: new folder for the copy; by default ``STUDY-ID`` in the working directory.
        force: whether to replace the folder of an earlier pick.
        storage: URL of the database that has the study, if it is in one.
        knee: whether to pick the front's knee.
        runtime: the runtime that serves the model, if the run has several. A runtime from a Python file runs only if
            it is named here.
        target_latency: longest latency.
        min_accuracy: least metric; pick the fastest model that reaches it.
        min_change: least difference to the unchanged network's metric; pick the fastest model that reaches it.
        max_size: largest size of the served file.
        max_memory: most memory of a process that serves the model.

    Raises:
        UsageError: there is no such model, its files were not kept, or the folder exists.
        AutocompressError: no model meets the limits, or the copy's outputs differ from the stored ones.
    """
    run = open_run(_folder(front), storage=storage)
    selection = parse_selection(
        run,
        id,
        knee=knee,
        runtime=runtime,
        target_latency=target_latency,
        min_accuracy=min_accuracy,
        min_change=min_change,
        max_size=max_size,
        max_memory=max_memory,
    )
    selection = replace(selection, limits=selection.limits or front.limits)
    return pick_model(run, selection, None if out is None else Path(out), force=force)


def load_model(front: ParetoFront, model: Model) -> Callable[..., Any]:
    """Return a function that runs a model of a front in its runtime, without copying it.

    Args:
        front: the front of a run directory.
        model: one of its models, or its baseline.

    Returns:
        A function that takes the network's inputs as arrays, batch first, and returns its output as an array; several
        outputs as a list.

    Raises:
        UsageError: the model's files were not kept, or its runtime comes from a Python file.
    """
    latency = model.measurement.latency
    file = _folder(front) / model.path / model.measurement.file
    if not model.path or not file.is_file():
        raise UsageError(f"a model must have its files to be loaded; those of {model.id} were not kept.")
    return predictor(latency.runtime, file, latency.threads)


def _folder(front: ParetoFront) -> Path:
    """Return the run directory of a front.

    Raises:
        UsageError: it has none.
    """
    if not front.where:
        raise UsageError(
            "a front must come from a run directory to have model files; this one does not. "
            "Take the front of autocompress.open_run(DIRECTORY)."
        )
    return Path(front.where)
