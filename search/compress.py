"""The public function that runs a whole study: from a study and a target to a Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..pareto.front import ParetoFront
from ..studies.names import study_name
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
    """Compress a network to a latency target; return the Pareto front and write it to the run directory.

    Arguments are as on the command line. A quantity is text with a unit, such as ``"5ms"``, ``"4MB"`` or ``"10m"``, or
    a number. To resume a run, make the same call. The function works in any thread, and uses a Ray that the program has
    started.

    Args:
        study: a built-in study's name, the path of a Python file with ``task()``, ``torchvision:NAME``,
            ``timm:NAME``, ``transformers:NAME``, or a `Task`.
        target_latency: latency that a model must meet; a number is in milliseconds.
        min_accuracy: lowest metric on the validation data; a string with a sign is relative to the unchanged network's.
        min_change: lowest difference from the unchanged network's metric: ``-0.005``, ``"-0.5%"``, ``"-0.3dB"``.
        max_size: largest size of the served file; a number is in bytes.
        max_memory: most memory of a process that serves the model; a number is in bytes.
        max_energy: most energy of one inference, if the machine has a counter; a number is in millijoules.
        trials: total number of trials in the study.
        time_budget: limit on the whole run, including the final evaluation; a number is in seconds.
        sampler: search method: surrogate, mutation, tpe, nsga2 or random.
        seed: random seed.
        epochs: passes over the training data per trial; None takes the task's.
        final_epochs: passes for the final training of each model; None takes the task's.
        trial_timeout: time after which a trial is stopped; a number is in seconds.
        trial_memory: memory above which a trial is stopped; a number is in bytes.
        promote: whether to train only candidates that can still reach the front.
        inherit: whether to start candidates from the weights of a trained neighbour.
        compact: whether to search palettes too; sizes are those of entropy-coded files.
        runtimes: runtimes that serve the models, one or several.
        threads: threads of a served model.
        batch: examples per inference; None takes the task's.
        percentile: percentile of the run times that must meet the target; 50 is the median.
        workers: parallel trials; 0 runs them in this process, None takes what the machine or the cluster has.
        ray_address: address of a running Ray cluster to train on.
        measure_on: resources of cluster nodes to measure on, one or several.
        artifacts: URL where workers keep files if nodes share no disk.
        storage: database URL of the study; None keeps it in the run directory.
        out: run directory; None takes ``runs/STUDY``.
        data: images for torchvision:, timm: and transformers: models: ``imagefolder:DIR``.
        data_dir: folder with the study's data.
        weights: state dict for torchvision: and timm: models.
        tensorboard: folder where the trials are logged for TensorBoard.
        progress: called with each line of progress, such as `print`.

    Raises:
        UsageError: the call cannot do what was asked; nothing was written.
        Interrupted: the user stopped the run; the results so far are on disk, and the same call resumes it.
    """
    words: dict[str, Any] = dict(locals())
    source = {name: words.pop(name) for name in ("data", "data_dir", "weights")}
    name, load = _named_loader(words.pop("study"), source)
    kept = {"study": str(study), **source} if isinstance(study, str | Path) else {}
    words |= {"out": Path("runs", name) if out is None else Path(out)}
    words |= {"tensorboard": None if tensorboard is None else str(tensorboard)}
    del words["progress"]
    return run(name, load, parse_options(words), None if progress is None else Lines(progress), source=kept)


def _named_loader(study: object, source: Mapping[str, Any]) -> tuple[str, Callable[[], Task]]:
    """Return the name of a study, and a function that loads it.

    Args:
        study: see `compress`.
        source: ``data``, ``data_dir`` and ``weights``, if given.

    Raises:
        UsageError: the study has a wrong type, or is a task and came with data.
    """
    from ..studies import loading  # noqa: PLC0415  # start-up time: torch is slow to import
    from ..studies.task import Task  # noqa: PLC0415  # start-up time: torch is slow to import

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
