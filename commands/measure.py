"""The command that measures one model file."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from . import completion
from .options import REAL, WHOLE
from .output import MISSES, OK, as_json, reported, working

if TYPE_CHECKING:
    from ..evaluators.standalone.measure_file import FileMeasurement, RuntimeResult


def measure(
    model: Annotated[Path, typer.Argument(help="Model file: .onnx, .tflite, .mnn, .pt (TorchScript) or .plan.")],
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            autocompletion=completion.runtimes,
            help=r"Runtime that serves it; may be repeated. \[default: the first installed one that reads it]",
        ),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help=r"Model that ratios are relative to. \[default: MODEL on the first runtime]")
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHAPE", help="Shape of an input: x=1x3x224x224, ids=1x128:int64; may be repeated."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(**WHOLE, help=r"Examples per inference. \[default: the file's, or 1]")
    ] = None,
    threads: Annotated[int, typer.Option(**WHOLE, help="Threads of the runtime.")] = 1,
    percentile: Annotated[
        float, typer.Option(**REAL, help="Percentile of run times to report: 50 is the median.")
    ] = 50.0,
    quick: Annotated[bool, typer.Option("--quick", help="Use fewer and shorter windows; intervals are wider.")] = False,
    energy: Annotated[bool, typer.Option("--energy", help="Measure energy, if the machine has a counter.")] = False,
    whole: Annotated[bool, typer.Option("--json", help="Print everything as JSON, with the raw times.")] = False,
) -> None:
    """Measure a model file as a study measures its models: in turns with a reference, in a separate process.

    Exit code 1: no runtime could serve the file.

    Examples:
        autocompress measure resnet18.onnx

        autocompress measure int8.onnx --reference float.onnx --runtime openvino

        autocompress measure net.pt --input x=1x3x224x224 --threads 2 --json
    """
    with reported():
        from ..evaluators.meters.latency import CAREFUL, SEARCH
        from ..evaluators.standalone.measure_file import Conditions, measure_file
        from ..evaluators.standalone.model_inputs import parse_input

        shapes = {value.name: value for value in map(parse_input, input or ())}
        conditions = Conditions(
            batch=batch, threads=threads, percentile=percentile, plan=SEARCH if quick else CAREFUL, energy=energy
        )
        with working() as notice:
            report = measure_file(
                model,
                runtimes=tuple(runtime or ()),
                reference=reference,
                shapes=shapes,
                conditions=conditions,
                notice=notice,
            )
        if whole:
            typer.echo(as_json(as_data(report)))
        else:
            from .tables import of_report

            Console(soft_wrap=not sys.stdout.isatty()).print(of_report(report))
    raise typer.Exit(OK if report.measured else MISSES)


def as_data(report: FileMeasurement) -> dict[str, object]:
    """Return a report for JSON, without the files and outputs, with the derived numbers."""
    return {
        "model": report.model,
        "reference": report.reference,
        "reference_runtime": report.reference_runtime,
        "inputs": [asdict(value) for value in report.inputs],
        "conditions": asdict(report.conditions),
        "calibration": None if report.calibration is None else asdict(report.calibration),
        "runtimes": [_row(row) for row in report.rows],
    }


def _row(row: RuntimeResult) -> dict[str, object]:
    latency, serving = row.latency, row.serving
    data: dict[str, object] = {"runtime": row.runtime, "size_bytes": len(row.artefact), "reason": row.reason}
    if serving is not None:
        data |= {name: getattr(serving, name) for name in ("build_s", "peak_bytes", "environment")}
        data["macs_by_bits"] = dict(serving.macs)
        data["energy"] = None if serving.energy is None else asdict(serving.energy)
    if latency is not None:
        derived = ("ratio", "half_width", "median_ms", "low_ms", "high_ms", "runs", "contended", "ratios")
        data["latency"] = {**{name: getattr(latency, name) for name in derived}, **asdict(latency)}
    data["parity"] = None if row.parity is None else asdict(row.parity)
    return data
