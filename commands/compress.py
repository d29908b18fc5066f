"""The command that runs a study."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from ..errors import UsageError
from . import options as given
from .output import INTERRUPTED, MISSES, OK, as_json, reported

if TYPE_CHECKING:
    from ..pareto.front import ParetoFront
    from ..search.options import Options
    from ..search.progress import Progress
    from ..studies.task import Task

NOT_OPTIONS = ("study", "data", "data_dir", "weights", "runtime", "quiet", "whole", "dry_run", "version")
"""Parameters of the command that are not options of a run by the same name: the network and the output."""

STOPPED = "Interrupted. No finished trial is lost: run the same command to resume."


def compress(
    context: typer.Context,
    study: given.StudyName = "digits",
    target_latency: given.TargetLatency = None,
    min_accuracy: given.MinAccuracy = None,
    max_size: given.MaxSize = None,
    max_memory: given.MaxMemory = None,
    max_energy: given.MaxEnergy = None,
    trials: given.Trials = 24,
    time_budget: given.TimeBudget = None,
    sampler: given.Sampler = "surrogate",
    seed: given.Seed = 0,
    epochs: given.Epochs = None,
    final_epochs: given.FinalEpochs = None,
    trial_timeout: given.TrialTimeout = "30m",
    trial_memory: given.TrialMemory = None,
    promote: given.Promote = True,
    inherit: given.Inherit = True,
    compact: given.Compact = False,
    runtime: given.Runtimes = None,
    threads: given.Threads = 1,
    batch: given.Batch = None,
    percentile: given.Percentile = 50.0,
    workers: given.Workers = None,
    ray_address: given.RayAddress = None,
    measure_on: given.MeasureOn = None,
    artifacts: given.Artifacts = None,
    storage: given.Storage = None,
    out: given.Out = None,
    data: given.Data = None,
    data_dir: given.DataDir = None,
    weights: given.Weights = None,
    quiet: given.Quiet = False,
    whole: given.Json = False,
    tensorboard: given.TensorBoard = None,
    dry_run: given.DryRun = False,
    version: given.Version = False,
) -> None:
    """Compress a trained network to a latency target, measured on the runtime that serves it.

    Write the Pareto front of compressed models to the run directory. To resume a stopped run, run the same command.

    Exit codes:
        0 the front, or the unchanged network, meets the target and every limit
        1 nothing meets them, the nearest model is reported
        2 the command cannot do what was asked
        130 interrupted, the same command resumes the run

    Examples:
        autocompress --target-latency 5ms

        autocompress my_study.py --target-latency 800us --trials 100 --workers 4

        autocompress --target-latency 5ms --runtime onnxruntime --runtime openvino

        autocompress --target-latency 5ms --min-accuracy -0.5% --max-size 4MB

        autocompress --target-latency 5ms --ray-address auto --measure-on gpu0 --measure-on edge

        autocompress my_study.py --target-latency 5ms --dry-run
    """
    with reported(STOPPED):
        from ..studies.names import study_name

        name = study_name(study)
        options = _options(name, context.params)
        source = {"data": data, "data_dir": data_dir, "weights": weights}
        if dry_run:
            _print_estimate(name, options, _loader(study, source), quiet=quiet, whole=whole)
            raise typer.Exit(OK)
        code = _run(study, name, options, source, quiet=quiet, whole=whole)
    raise typer.Exit(code)


def _options(name: str, words: Mapping[str, Any]) -> Options:
    """Return the options of a run from the values of the command line.

    Raises:
        UsageError: the target is missing, or a value is not valid for its option.
    """
    from ..search.options import parse_options

    out = words["out"] or Path("runs", name)
    if words["target_latency"] is None:
        raise UsageError(_without_target(out))
    kept = {name: value for name, value in words.items() if name not in NOT_OPTIONS}
    return parse_options({**kept, "out": out, "runtimes": words["runtime"] or None})


def _without_target(out: Path) -> str:
    from ..storage.invocation import last

    rule = "--target-latency must be the latency that a model has to meet, with a unit, such as 5ms; none was given."
    asked = last(out)
    if asked is None:
        return f"{rule} Give one; --help lists all options."
    return f"{rule} The last run in {str(out)!r} had --target-latency {asked.limits.target_ms:g}ms."


def _run(study: str, name: str, options: Options, source: dict[str, Any], *, quiet: bool, whole: bool) -> int:
    """Run a study with its progress on stderr and its result on stdout; return the exit code."""
    from ..search.interrupts import Interrupted
    from ..search.study_run import run

    try:
        with _progress(quiet=quiet) as progress, redirect_stdout(sys.stderr if whole else sys.stdout):
            front = run(name, _loader(study, source), options, progress, source={"study": study, **source})
    except Interrupted as interrupted:
        if interrupted.front is not None:
            _print_front(interrupted.front, options.out, whole=whole)
        typer.echo(STOPPED, err=True)
        return INTERRUPTED
    _print_front(front, options.out, whole=whole)
    return OK if front.meets_target else MISSES


def _print_estimate(name: str, options: Options, load: Callable[[], Task], *, quiet: bool, whole: bool) -> None:
    """Print the search space, the plan and the estimated time of a run."""
    from ..search.dry_run import estimate_run
    from .dry_run import as_data, as_table

    with _progress(quiet=quiet) as progress, redirect_stdout(sys.stderr if whole else sys.stdout):
        plan = estimate_run(name, load, options, progress)
    if whole:
        typer.echo(as_json(as_data(plan)))
    else:
        Console(soft_wrap=not sys.stdout.isatty()).print(as_table(plan))


def _print_front(front: ParetoFront, out: Path, *, whole: bool) -> None:
    if whole:
        from ..reports.json_result import as_data

        typer.echo(as_json(as_data(front, str(out))))
    else:
        from ..reports.terminal_table import print_table

        print_table(front, str(out), Console(soft_wrap=not sys.stdout.isatty()))


def _loader(study: str, source: dict[str, Any]) -> Callable[[], Task]:
    def load() -> Task:
        from ..studies import loading

        return loading.load(study, **source)

    return load


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Progress]:
    from ..search.progress import Lines, Silent
    from .live_display import Live

    if quiet:
        yield Silent()
        return
    if not sys.stderr.isatty():
        yield Lines(lambda text: typer.echo(text, err=True))
        return
    live = Live(Console(stderr=True))
    with live.shown():
        yield live
