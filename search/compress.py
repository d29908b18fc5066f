"""The whole job as one call: a study and a target in, a Pareto front out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..pareto.front import ParetoFront
from .options import parse_options
from .progress import Lines
from .study_run import run

if TYPE_CHECKING:
    from ..studies.task import Task


def compress(
    study: str | Path | Task = "digits",
    target_latency: str | float = "5ms",
    *,
    min_accuracy: str | float | None = None,
    min_change: str | float | None = None,
    max_size: str | float | None = None,
    max_memory: str | float | None = None,
    max_energy: str | float | None = None,
    trials: int = 24,
    time_budget: str | float | None = None,
    sampler: str = "surrogate",
    seed: int = 0,
    epochs: float | None = None,
    final_epochs: float | None = None,
    trial_timeout: str | float = "30m",
    trial_memory: str | float | None = None,
    promote: bool = True,
    inherit: bool = True,
    compact: bool = False,
    runtimes: str | Sequence[str] = "onnxruntime",
    threads: int = 1,
    batch: int | None = None,
    percentile: float = 50.0,
    workers: int | None = None,
    ray_address: str | None = None,
    measure_on: str | Sequence[str] = (),
    artifacts: str | None = None,
    storage: str | None = None,
    out: str | Path | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    weights: str | Path | None = None,
    tensorboard: str | Path | None = None,
    progress: Callable[[str], object] | None = None,
) -> ParetoFront:
    """Return the Pareto front of compressed networks that meet a latency target, and leave it on disk.

    Everything is as on the command line, quantities with a unit too: ``"5ms"``, ``"4MB"``, ``"10m"``. A quantity may
    also be a number: of milliseconds, bytes, millijoules or, for ``time_budget`` and ``trial_timeout``, seconds.
    The same call goes on with a run. It may come from any thread; a Ray that the program has begun is used.

    Args:
        study: a built-in study's name, the path of a Python file with ``task()``, ``torchvision:NAME``,
            ``timm:NAME``, ``transformers:NAME``, or a `Task`.
        target_latency: what a model must meet.
        min_accuracy: least metric on the validation data; in words, with a sign, it is to the unchanged network's.
        min_change: least difference to the unchanged network's metric: ``-0.005``, ``"-0.5%"``, ``"-0.3dB"``.
        max_size: most bytes of the served file.
        max_memory: most memory of a process that serves it.
        max_energy: most energy of one run, where the machine has a counter.
        trials: that the study has when it is done.
        time_budget: for the whole run, its end included.
        sampler: where candidates come from: surrogate, mutation, tpe, nsga2 or random.
        seed: of everything random.
        epochs: passes over the training data in a trial; None takes the task's.
        final_epochs: passes for each model of the front; None takes the task's.
        trial_timeout: after which a trial is given up.
        trial_memory: a trial that needs more is given up.
        promote: train only candidates that may yet come onto the front.
        inherit: let candidates go on from a trained neighbour.
        compact: search palettes too; sizes are of entropy-coded files.
        runtimes: what serves the models, one or several.
        threads: that a served model may use.
        batch: examples that are served at a time; None takes the task's.
        percentile: of the run times, which must meet the target.
        workers: trials at a time; 0 runs them in this process, None takes what the machine or the cluster has.
        ray_address: of a running Ray cluster, whose nodes train.
        measure_on: resources of the cluster's nodes to measure on, one or several.
        artifacts: URL where workers keep files, for nodes without a common disk.
        storage: URL of a database for the study.
        out: run directory; by default ``runs/STUDY``.
        data: ``imagefolder:DIR``, for torchvision:, timm: and transformers: models.
        data_dir: where the study's data is.
        weights: state dict for torchvision: and timm: models.
        tensorboard: folder in which TensorBoard finds how the trials go.
        progress: is told how it goes, a line at a time, such as `print`.

    Raises:
        UsageError: something that was asked for cannot be done; nothing was written.
        Interrupted: the user ended the run; what was found is on disk, and the same call goes on.
    """
    words: dict[str, Any] = dict(locals())
    source = {name: words.pop(name) for name in ("data", "data_dir", "weights")}
    name, load = _asked_study(words.pop("study"), source)
    told = {"study": str(study), **source} if isinstance(study, str | Path) else {}
    words |= {"out": Path("runs", name) if out is None else Path(out)}
    words |= {"tensorboard": None if tensorboard is None else str(tensorboard)}
    del words["progress"]
    return run(name, load, parse_options(words), None if progress is None else Lines(progress), source=told)


def _asked_study(study: object, source: Mapping[str, Any]) -> tuple[str, Callable[[], Task]]:
    """Return the name of a study, and what loads it.

    Args:
        study: see `compress`.
        source: ``data``, ``data_dir`` and ``weights``, where it has them.

    Raises:
        UsageError: it is of another type, or is a task and came with data.
    """
    from ..studies import loading
    from ..studies.names import study_name
    from ..studies.task import Task

    if isinstance(study, Task):
        for option, value in source.items():
            if value is not None:
                raise UsageError(
                    f"`{option}` belongs to a study that is loaded; a Task came with {value!r}. Leave it out."
                )
        return "task", lambda: study
    if not isinstance(study, str | Path):
        raise UsageError(
            "`study` must be a built-in name, the path of a Python file with task(), torchvision:NAME, timm:NAME, "
            f"transformers:NAME, or a Task; got an object of type {type(study).__name__}. A network with its data is a "
            "Task: autocompress.Task(network, example_inputs, train, validation)."
        )
    paths = {name: Path(source[name]) for name in ("data_dir", "weights") if source[name] is not None}
    return study_name(str(study)), lambda: loading.load(str(study), **{**source, **paths})
