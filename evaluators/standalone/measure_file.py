"""Any model file, measured as the models of a study are: what it costs on one runtime or several.

A file is served as it is. Only a runtime that does not read ONNX files converts one first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import InfeasibleError, UsageError
from ..device_lock import exclusive
from ..measurement import MEDIAN, Latency
from ..meters.energy import counter_of
from ..meters.latency import CAREFUL, Calibration, Meter, Plan, device_of, meter_for
from ..meters.serve_once import Serving, serve_once
from ..parity import Parity, compare
from ..runtime import Arrays, Runtime, Source
from .model_file import ModelFile, able, first_able, read
from .model_inputs import Input, arrays, settle

EXAMPLES = 5
"""Random batches on which outputs are compared, and after which peak memory is read."""


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """How files are measured.

    Attributes:
        batch: examples at a time; None for what the file says, or one.
        threads: that a runtime may use.
        percentile: of a window's run times; 50 is the median.
        plan: how long to measure.
        energy: whether to count joules.
        timeout_s: seconds after which one runtime is given up.

    Raises:
        UsageError: a value is out of its range.

    """

    batch: int | None = None
    threads: int = 1
    percentile: float = MEDIAN
    plan: Plan = CAREFUL
    energy: bool = False
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} must be 1 or more; got {value}.")
        if not 1 <= self.percentile <= 99:
            raise UsageError(f"--percentile must be between 1 and 99; got {self.percentile:g}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class RuntimeResult:
    """What a file costs on one runtime.

    Attributes:
        runtime: its name.
        artefact: the file that it serves; empty where it could not make its own.
        serving: what a fresh process found.
        latency: against the reference.
        parity: to the reference; None where their outputs have other shapes.
        reason: why there is no latency.

    """

    runtime: str
    artefact: bytes = b""
    serving: Serving | None = None
    latency: Latency | None = None
    parity: Parity | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FileMeasurement:
    """What was measured of one file.

    Attributes:
        model: its path.
        inputs: what it was fed.
        conditions: how it was measured.
        reference: path of the file that ratios and parity are to.
        rows: one a runtime, in the order asked for.
        reference_runtime: what serves the reference; None where nothing does.
        calibration: the reference's own time.

    """

    model: str
    inputs: tuple[Input, ...]
    conditions: Conditions
    reference: str
    rows: tuple[RuntimeResult, ...]
    reference_runtime: str | None = None
    calibration: Calibration | None = None

    @property
    def measured(self) -> bool:
        """Whether any runtime serves the file."""
        return any(row.latency is not None for row in self.rows)


def measure_file(
    path: Path,
    *,
    runtimes: Sequence[str] = (),
    reference: Path | None = None,
    shapes: Mapping[str, Input] | None = None,
    conditions: Conditions | None = None,
    notice: Callable[[str], object] = lambda text: None,
) -> FileMeasurement:
    """Measure a model file on some runtimes.

    Args:
        path: ends with what a runtime reads: ``.onnx``, ``.tflite``, ``.mnn``, ``.pt``, ``.plan``.
        runtimes: names; empty for the first that reads the file and is installed.
        reference: what the ratios are to; None for the file itself on the first runtime that serves it.
        shapes: of inputs, by name, where the file leaves them open or does not tell.
        conditions: how to measure.
        notice: gets each line of progress.

    Raises:
        UsageError: a file, a runtime or an input is not what it must be.
        InfeasibleError: nothing serves the reference.

    """
    conditions = conditions or Conditions()
    model = read(path)
    servers = [able(name, model) for name in dict.fromkeys(runtimes)] or [first_able(model)]
    if conditions.energy:
        for server in servers:
            counter_of(server.capabilities.device)
    inputs = settle(model.inputs, shapes or {}, conditions.batch)
    batches = [arrays(inputs, seed) for seed in range(EXAMPLES)]
    tried = []
    baseline = None
    if reference is not None:
        notice(f"{reference}: built, and run a few times")
        baseline = _reference(read(reference), inputs, servers, batches, conditions)
    for server in servers:
        notice(f"{server.name}: built, and run a few times")
        tried.append(_try(server, model, batches, conditions))
    baseline = baseline or next((row for row in tried if row.serving), None)
    report = FileMeasurement(
        model=str(path), inputs=inputs, conditions=conditions, reference=str(reference or path), rows=tuple(tried)
    )
    return report if baseline is None else _timed(report, baseline, batches[0], notice)


def _reference(
    model: ModelFile,
    inputs: Sequence[Input],
    servers: Sequence[Runtime],
    batches: Sequence[Arrays],
    conditions: Conditions,
) -> RuntimeResult:
    """Serve the reference, on the first of some runtimes that reads it as it is."""
    declared = model.inputs or inputs
    if len(declared) != len(inputs) or not all(map(Input.admits, declared, inputs)):
        raise UsageError(
            f"--reference must take what the model takes: {', '.join(map(str, inputs))}; "
            f"it takes {', '.join(map(str, declared))}."
        )
    server = next(filter(model.served_as_it_is, servers), None) or first_able(model)
    row = _try(server, model, batches, replace(conditions, energy=False))
    if row.serving is None:
        raise InfeasibleError(f"The reference {model.path} cannot be served: {row.reason}", rung="build")
    return row


def _try(server: Runtime, model: ModelFile, batches: Sequence[Arrays], conditions: Conditions) -> RuntimeResult:
    """Serve a file in a fresh process; alone on its device where its energy is counted."""
    row = RuntimeResult(runtime=server.name)
    try:
        converts = not model.served_as_it_is(server)
        artefact = server.convert(Source(onnx=model.content, examples=batches[0])) if converts else model.content
        row = replace(row, artefact=artefact)
        with exclusive(device_of(server.name)) if conditions.energy else nullcontext():
            serving = serve_once(
                server.name,
                artefact,
                batches,
                threads=conditions.threads,
                timeout_s=conditions.timeout_s,
                kernels=True,
                energy=conditions.energy,
            )
    except InfeasibleError as error:
        return replace(row, reason=error.reason)
    return replace(row, serving=serving)


def _timed(
    report: FileMeasurement, baseline: RuntimeResult, inputs: Arrays, notice: Callable[[str], object]
) -> FileMeasurement:
    """Time what can be served, each in turns with the reference."""
    how = report.conditions
    assert baseline.serving is not None
    meter = meter_for(
        baseline.runtime,
        baseline=baseline.artefact,
        inputs=inputs,
        threads=how.threads,
        percentile=how.percentile,
    )
    notice(f"the reference on {baseline.runtime}: timed alone")
    calibration = meter.calibrate(how.plan, timeout_s=how.timeout_s)
    meter = replace(meter, baseline_ms=calibration.median_ms, baseline_spread=calibration.spread)
    rows = []
    for row in report.rows:
        if row.serving is not None:
            notice(f"{row.runtime}: timed in turns with the reference")
            parity = compare(baseline.serving.outputs, row.serving.outputs)
            row = replace(_time(row, meter, how), parity=parity)
        rows.append(row)
    return replace(report, reference_runtime=baseline.runtime, calibration=calibration, rows=tuple(rows))


def _time(row: RuntimeResult, meter: Meter, how: Conditions) -> RuntimeResult:
    try:
        latency = meter.measure(row.artefact, how.plan, runtime=row.runtime, timeout_s=how.timeout_s)
    except InfeasibleError as error:
        return replace(row, reason=error.reason)
    return replace(row, latency=latency)
