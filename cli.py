"""The command line: options in, an exit code out.

Exit codes: 0 the front meets the target and every limit · 1 nothing does, the nearest is reported · 2 what was asked
for cannot be done · 130 interrupted, the same command goes on. Of ``measure`` and ``doctor``, 1 means that no runtime
works.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from . import __version__
from .commands.doctor import doctor
from .commands.group import DEFAULT, HELP, INTERRUPTED, MISSES, OK, Group, Unnamed, reported
from .commands.measure import measure
from .commands.pack import pack, unpack

if TYPE_CHECKING:
    from .search.options import Options
    from .search.progress import Progress
    from .studies.task import Task

STOPPED = "Interrupted. Nothing that was finished is lost: the same command goes on."

app = typer.Typer(cls=Group, add_completion=False, pretty_exceptions_enable=False, context_settings=HELP)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autocompress {__version__}")
        raise typer.Exit


@app.command(DEFAULT, cls=Unnamed, context_settings=HELP)
def compress(
    target_latency: Annotated[str, typer.Option(help="What a model must meet, with a unit: 5ms, 800us.")],
    study: Annotated[
        str, typer.Argument(help="digits, fashion_mnist, a Python file with task(), torchvision:NAME or timm:NAME.")
    ] = "digits",
    min_accuracy: Annotated[
        str | None, typer.Option(help="Least metric: 0.88, or with a sign to the unchanged network's: -0.5%.")
    ] = None,
    max_size: Annotated[str | None, typer.Option(help="Most bytes of the served file: 4MB, 900kB.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Most memory of a process that serves it: 60MB.")] = None,
    max_energy: Annotated[
        str | None, typer.Option(help="Most energy of one run, where the machine has a counter: 5mJ.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help=r"Run directory. \[default: runs/STUDY]")] = None,
    trials: Annotated[int, typer.Option(help="Trials that the study has when it is done.")] = 24,
    time_budget: Annotated[str | None, typer.Option(help="Begin no trial after this long: 10m, 2h.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(help=r"Trials at a time; 0 runs them in this process. \[default: cores, at most 2]"),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help=r"Train on a running Ray cluster: auto, HOST:PORT, ray://HOST:PORT.")
    ] = None,
    measure_on: Annotated[
        str | None, typer.Option(metavar="NAME", help=r"Measure on the cluster's node that offers this Ray resource.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=r"What serves the models; may be repeated. \[default: onnxruntime]"),
    ] = None,
    sampler: Annotated[str, typer.Option(help="surrogate, mutation, tpe, nsga2 or random.")] = "surrogate",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    threads: Annotated[int, typer.Option(help="Threads that a served model may use.")] = 1,
    batch: Annotated[
        int | None, typer.Option(help=r"Examples that are served at a time. \[default: the study's]")
    ] = None,
    percentile: Annotated[
        float, typer.Option(help="Of the run times, which must meet the target: 50 is the median.")
    ] = 50.0,
    promote: Annotated[
        bool,
        typer.Option("--promote/--no-promote", help="Train only candidates that may yet come onto the front."),
    ] = True,
    inherit: Annotated[
        bool,
        typer.Option("--inherit/--no-inherit", help="Let candidates go on from a trained neighbour."),
    ] = True,
    compact: Annotated[
        bool, typer.Option("--compact", help="Search k-means palettes too; sizes are of entropy-coded files (.acz).")
    ] = False,
    data: Annotated[str | None, typer.Option(help="imagefolder:DIR, for torchvision: and timm: models.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the study's data is.")] = None,
    weights: Annotated[Path | None, typer.Option(help="State dict for torchvision: and timm: models.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training data in a trial.")] = None,
    final_epochs: Annotated[float | None, typer.Option(help="Passes for each model of the front.")] = None,
    trial_timeout: Annotated[str, typer.Option(help="Give a trial up after this long.")] = "30m",
    trial_memory: Annotated[
        str | None, typer.Option(help="Give a trial up that needs more of its node's memory: 8GB.")
    ] = None,
    artifacts: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=r"Where workers keep files, for nodes without a common disk: s3://bucket/path. \[default: the run]",
        ),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help=r"Database URL for the study. \[default: a file in the run]")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compress a trained network to a latency target, measured on the runtime that serves it.

    Leaves the Pareto front of compressed models in the run directory. The same command goes on where it stopped.

    Examples:
        autocompress --target-latency 5ms

        autocompress my_study.py --target-latency 800us --trials 100 --workers 4

        autocompress --target-latency 5ms --runtime onnxruntime --runtime openvino

        autocompress --target-latency 5ms --min-accuracy -0.5% --max-size 4MB
    """
    with reported(STOPPED):
        from .search.options import Options, parse_duration, parse_limits, parse_size

        limits = parse_limits(
            target_latency, min_accuracy=min_accuracy, max_size=max_size, max_memory=max_memory, max_energy=max_energy
        )
        asked = {
            **limits,
            "runtimes": tuple(runtime) if runtime else None,
            "trials": trials,
            "time_budget_s": None if time_budget is None else parse_duration(time_budget, "--time-budget"),
            "trial_timeout_s": parse_duration(trial_timeout, "--trial-timeout"),
            "trial_memory_bytes": None if trial_memory is None else parse_size(trial_memory, "--trial-memory"),
            "artifacts": artifacts,
            "workers": workers,
            "ray_address": ray_address,
            "measure_on": measure_on,
            "sampler": sampler,
            "seed": seed,
            "threads": threads,
            "batch": batch,
            "percentile": percentile,
            "promote": promote,
            "inherit": inherit,
            "compact": compact,
            "storage": storage,
            "epochs": epochs,
            "final_epochs": final_epochs,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        from .studies.names import study_name

        name = study_name(study)
        options = Options(out=out or Path("runs", name), **given)  # type: ignore[arg-type]
        code = _run(study, name, options, {"data": data, "data_dir": data_dir, "weights": weights})
    raise typer.Exit(code)


def _run(study: str, name: str, options: Options, source: dict[str, Any]) -> int:
    """Run a study with its progress on stderr and its table on stdout; return the exit code."""
    from .search.compress import run
    from .search.drive import Interrupted
    from .search.report.table import show

    def load() -> Task:
        from .studies import loading

        return loading.load(study, **source)

    output = Console(soft_wrap=not sys.stdout.isatty())
    try:
        with _progress() as progress:
            front = run(name, load, options, progress)
    except Interrupted as interrupted:
        if interrupted.front is not None:
            show(interrupted.front, str(options.out), output)
        typer.echo(STOPPED, err=True)
        return INTERRUPTED
    show(front, str(options.out), output)
    return OK if front.meets_target else MISSES


@contextmanager
def _progress() -> Iterator[Progress]:
    from .search.progress import Lines, Live

    if not sys.stderr.isatty():
        yield Lines(lambda text: typer.echo(text, err=True))
        return
    live = Live(Console(stderr=True))
    with live.shown():
        yield live


app.command(context_settings=HELP)(measure)
app.command(context_settings=HELP)(doctor)
app.command(context_settings=HELP)(pack)
app.command(context_settings=HELP)(unpack)


def main() -> None:
    """Run the command line."""
    app()
