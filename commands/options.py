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
        raise typer.BadParameter(f"must be a whole number, such as 2; got {text!r}.") from None


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"must be a number, such as 2 or 0.5; got {text!r}.") from None


WHOLE = {"parser": _whole, "metavar": "N"}
REAL = {"parser": _real, "metavar": "X"}

StudyName = Annotated[
    str,
    typer.Argument(
        help="Study: digits, fashion_mnist, a Python file with task(), torchvision:NAME, timm:NAME, transformers:NAME.",
        autocompletion=completion.studies,
    ),
]

TargetLatency = Annotated[
    str | None, _option(TARGET, r"Latency that a model must meet, with a unit: 5ms, 800us. \[required]")
]
MinAccuracy = Annotated[
    str | None,
    _option(
        TARGET,
        "Lowest metric, after subtracting one standard error: 0.88; with a sign, relative to the unchanged network: "
        "-0.5%, -0.3dB.",
    ),
]
MaxSize = Annotated[str | None, _option(TARGET, "Largest size of the served file: 4MB, 900kB.")]
MaxMemory = Annotated[str | None, _option(TARGET, "Most memory of a process that serves the model: 60MB.")]
MaxEnergy = Annotated[str | None, _option(TARGET, "Most energy of one inference, if the machine has a counter: 5mJ.")]

Trials = Annotated[int, _option(SEARCH, "Total number of trials in the study.", **WHOLE)]
TimeBudget = Annotated[
    str | None,
    _option(SEARCH, "Limit on the whole run: 10m, 2h. The search stops early enough for the final evaluation."),
]
Sampler = Annotated[
    str,
    _option(SEARCH, "Search method: surrogate, mutation, tpe, nsga2 or random.", autocompletion=completion.samplers),
]
Seed = Annotated[int, _option(SEARCH, "Random seed.", **WHOLE)]
Epochs = Annotated[
    float | None, _option(SEARCH, r"Passes over the training data per trial. \[default: the study's]", **REAL)
]
FinalEpochs = Annotated[
    float | None, _option(SEARCH, r"Passes for the final training of each model. \[default: the study's]", **REAL)
]
TrialTimeout = Annotated[str, _option(SEARCH, "Stop a trial after this time.")]
TrialMemory = Annotated[str | None, _option(SEARCH, "Stop a trial that uses more memory than this: 8GB.")]
Promote = Annotated[
    bool, _option(SEARCH, "Train only candidates that can still reach the front.", "--promote/--no-promote")
]
Inherit = Annotated[
    bool, _option(SEARCH, "Start candidates from the weights of a trained neighbour.", "--inherit/--no-inherit")
]
Compact = Annotated[
    bool, _option(SEARCH, "Also search k-means palettes; sizes are those of entropy-coded files (.acz).", "--compact")
]

Runtimes = Annotated[
    list[str] | None,
    _option(
        MEASURING,
        r"Runtime that serves the models; may be repeated. \[default: onnxruntime]",
        "--runtime",
        metavar="NAME",
        autocompletion=completion.runtimes,
    ),
]
Threads = Annotated[int, _option(MEASURING, "Threads of a served model.", **WHOLE)]
Batch = Annotated[int | None, _option(MEASURING, r"Examples per inference. \[default: the study's]", **WHOLE)]
Percentile = Annotated[
    float, _option(MEASURING, "Percentile of run times that must meet the target: 50 is the median.", **REAL)
]

Workers = Annotated[
    int | None,
    _option(
        CLUSTER, r"Parallel trials; 0 runs them in this process. \[default: as many as cores and memory allow]", **WHOLE
    ),
]
RayAddress = Annotated[
    str | None, _option(CLUSTER, "Train on a running Ray cluster: auto, HOST:PORT or ray://HOST:PORT.")
]
MeasureOn = Annotated[
    list[str] | None,
    _option(CLUSTER, "Measure on the cluster node that offers this Ray resource; may be repeated.", metavar="NAME"),
]
Artifacts = Annotated[
    str | None,
    _option(
        CLUSTER,
        r"Where workers keep files if nodes share no disk: s3://bucket/path. \[default: the run directory]",
        metavar="URL",
    ),
]
Storage = Annotated[
    str | None, _option(CLUSTER, r"Database URL of the study. \[default: a file in the run directory]", metavar="URL")
]

Out = Annotated[Path | None, _option(FILES, r"Run directory. \[default: runs/STUDY]", autocompletion=completion.runs)]
Data = Annotated[
    str | None, _option(FILES, "Images for torchvision:, timm: and transformers: models: imagefolder:DIR.")
]
DataDir = Annotated[Path | None, _option(FILES, "Folder with the study's data.")]
Weights = Annotated[Path | None, _option(FILES, "State dict for torchvision: and timm: models.")]

Quiet = Annotated[bool, _option(OUTPUT, "Print the result and errors, but no progress.", "--quiet", "-q")]
TensorBoard = Annotated[
    str | None, _option(OUTPUT, "Log the trials for TensorBoard in this folder.", "--tensorboard", metavar="DIR")
]
DryRun = Annotated[
    bool,
    _option(
        OUTPUT, "Print the search space, the plan and the estimated time; train and write nothing.", "--dry-run", "-n"
    ),
]
Json = Annotated[bool, _option(OUTPUT, "Print the result as JSON, and nothing else on stdout.", "--json")]


def _version(wanted: bool) -> None:
    if wanted:
        from ..version import __version__

        typer.echo(f"autocompress {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.", rich_help_panel=None)
]
