"""The options of a study's command line, by topic; the topics are the panels of ``--help``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import completion

TARGET, SEARCH, MEASURING, CLUSTER, FILES, OUTPUT = "Target", "Search", "Measuring", "Cluster", "Files", "Output"
"""Panels of the help."""


def _option(panel: str, help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"it must be a whole number, such as 2; got {text!r}.") from None


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"it must be a number, such as 2 or 0.5; got {text!r}.") from None


WHOLE = {"parser": _whole, "metavar": "N"}
REAL = {"parser": _real, "metavar": "X"}

StudyName = Annotated[
    str,
    typer.Argument(
        help="digits, fashion_mnist, a Python file with task(), torchvision:NAME, timm:NAME or transformers:NAME.",
        autocompletion=completion.studies,
    ),
]

TargetLatency = Annotated[str | None, _option(TARGET, r"What a model must meet, with a unit: 5ms, 800us. \[required]")]
MinAccuracy = Annotated[
    str | None,
    _option(
        TARGET, "Least metric, less a standard error: 0.88; with a sign to the unchanged network's: -0.5%, -0.3dB."
    ),
]
MaxSize = Annotated[str | None, _option(TARGET, "Most bytes of the served file: 4MB, 900kB.")]
MaxMemory = Annotated[str | None, _option(TARGET, "Most memory of a process that serves it: 60MB.")]
MaxEnergy = Annotated[str | None, _option(TARGET, "Most energy of one run, where the machine has a counter: 5mJ.")]

Trials = Annotated[int, _option(SEARCH, "Trials that the study has when it is done.", **WHOLE)]
TimeBudget = Annotated[
    str | None,
    _option(
        SEARCH, "For the whole run, its end included: 10m, 2h. No trial begins when the rest is needed for the end."
    ),
]
Sampler = Annotated[
    str, _option(SEARCH, "surrogate, mutation, tpe, nsga2 or random.", autocompletion=completion.samplers)
]
Seed = Annotated[int, _option(SEARCH, "Of everything random.", **WHOLE)]
Epochs = Annotated[float | None, _option(SEARCH, "Passes over the training data in a trial.", **REAL)]
FinalEpochs = Annotated[float | None, _option(SEARCH, "Passes for each model of the front.", **REAL)]
TrialTimeout = Annotated[str, _option(SEARCH, "Give a trial up after this long.")]
TrialMemory = Annotated[str | None, _option(SEARCH, "Give a trial up that needs more of its node's memory: 8GB.")]
Promote = Annotated[
    bool, _option(SEARCH, "Train only candidates that may yet come onto the front.", "--promote/--no-promote")
]
Inherit = Annotated[bool, _option(SEARCH, "Let candidates go on from a trained neighbour.", "--inherit/--no-inherit")]
Compact = Annotated[
    bool, _option(SEARCH, "Search k-means palettes too; sizes are of entropy-coded files (.acz).", "--compact")
]

Runtimes = Annotated[
    list[str] | None,
    _option(
        MEASURING,
        r"What serves the models; may be repeated. \[default: onnxruntime]",
        "--runtime",
        metavar="NAME",
        autocompletion=completion.runtimes,
    ),
]
Threads = Annotated[int, _option(MEASURING, "Threads that a served model may use.", **WHOLE)]
Batch = Annotated[
    int | None, _option(MEASURING, r"Examples that are served at a time. \[default: the study's]", **WHOLE)
]
Percentile = Annotated[
    float, _option(MEASURING, "Of the run times, which must meet the target: 50 is the median.", **REAL)
]

Workers = Annotated[
    int | None,
    _option(CLUSTER, r"Trials at a time; 0 runs them in this process. \[default: as cores and memory allow]", **WHOLE),
]
RayAddress = Annotated[
    str | None, _option(CLUSTER, "Train on a running Ray cluster: auto, HOST:PORT, ray://HOST:PORT.")
]
MeasureOn = Annotated[
    list[str] | None,
    _option(CLUSTER, "Measure on the cluster's node that offers this Ray resource; may be repeated.", metavar="NAME"),
]
Artifacts = Annotated[
    str | None,
    _option(
        CLUSTER,
        r"Where workers keep files, for nodes without a common disk: s3://bucket/path. \[default: the run]",
        metavar="URL",
    ),
]
Storage = Annotated[
    str | None, _option(CLUSTER, r"Database URL for the study. \[default: a file in the run]", metavar="URL")
]

Out = Annotated[Path | None, _option(FILES, r"Run directory. \[default: runs/STUDY]", autocompletion=completion.runs)]
Data = Annotated[str | None, _option(FILES, "imagefolder:DIR, for torchvision:, timm: and transformers: models.")]
DataDir = Annotated[Path | None, _option(FILES, "Where the study's data is.")]
Weights = Annotated[Path | None, _option(FILES, "State dict for torchvision: and timm: models.")]

Quiet = Annotated[bool, _option(OUTPUT, "Print the result and errors, and no progress.", "--quiet", "-q")]
TensorBoard = Annotated[
    str | None, _option(OUTPUT, "Write how the trials go for TensorBoard.", "--tensorboard", metavar="DIR")
]
DryRun = Annotated[
    bool, _option(OUTPUT, "Tell the space, the plan and the time it takes; train and write nothing.", "--dry-run", "-n")
]
Json = Annotated[bool, _option(OUTPUT, "Print the result as JSON, and nothing else on stdout.", "--json")]


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"autocompress {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.", rich_help_panel=None)
]
