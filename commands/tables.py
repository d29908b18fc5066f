"""The tables that commands print, in 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..evaluators.meters.serve_once import Serving
from ..evaluators.standalone.doctor import IMPORTED, MISSING, Check, Health, Noise
from ..evaluators.standalone.measure_file import FileMeasurement, RuntimeResult
from ..reports.terminal_table import short
from ..studies.metric_units import share_shown


def table(*columns: str) -> Table:
    """Return a plain table; its first column has words and wraps if space is short, the others have numbers."""
    made = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    made.add_column(columns[0], overflow="fold")
    for name in columns[1:]:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def of_report(report: FileMeasurement) -> RenderableType:
    """Return the measurements of a file as a table, with notes below."""
    energy = report.conditions.energy
    made = table("runtime", "precision", "ms", "95 % range", "ratio", "RAM MB", "MB", "build s", *["mJ"] * energy)
    for row in report.rows:
        made.add_row(short(row.runtime), *_cells(row), *[_joules(row)] * energy)
    notes = [f"{short(row.runtime)}: {note}" for row in report.rows for note in _notes(row)]
    return Group(made, Text(), *map(Text, (*_heading(report), *notes)))


def _cells(row: RuntimeResult) -> list[str]:
    latency, serving = row.latency, row.serving
    if serving is None:
        return ["–"] * 7
    peak = "–" if serving.peak_bytes is None else f"{serving.peak_bytes / 1e6:.0f}"
    costs = [peak, f"{len(row.artefact) / 1e6:.2f}", f"{serving.build_s:.1f}"]
    if latency is None:
        return [_precision(serving), "–", "–", "–", *costs]
    digits = 2 if latency.median_ms > 1 else 3
    return [
        _precision(serving),
        f"{latency.median_ms:.{digits}f}",
        f"{latency.low_ms:.{digits}f}–{latency.high_ms:.{digits}f}",
        f"{latency.ratio:.2f} ±{latency.half_width:.2f}",
        *costs,
    ]


def _precision(serving: Serving) -> str:
    """Return the width below 32 bits that does most of the work, with the share of all such widths."""
    low = {bits: count for bits, count in serving.macs.items() if bits < 32}
    if serving.low_precision is None or not low:
        return "32 bit" if serving.macs else "–"
    return f"{max(low, key=low.__getitem__)} bit {serving.low_precision:.0%}"


def _joules(row: RuntimeResult) -> str:
    energy = row.serving.energy if row.serving else None
    return "–" if energy is None else f"{energy.joules * 1e3:.1f}"


def _heading(report: FileMeasurement) -> Iterator[str]:
    how = report.conditions
    counted = "median" if how.percentile == 50 else f"{how.percentile:g}th percentile"
    threads = "1 thread" if how.threads == 1 else f"{how.threads} threads"
    yield f"{', '.join(map(str, report.inputs))} · {threads} · {counted} of the runs"
    if report.reference_runtime is not None:
        yield f"Ratios and outputs are relative to {report.reference} on {short(report.reference_runtime)}."


def _notes(row: RuntimeResult) -> Iterator[str]:
    if row.reason is not None:
        yield row.reason
    if row.parity is not None and math.isnan(row.parity.difference):
        yield "outputs are not finite"
    elif row.parity is not None and row.parity.difference:
        same = "" if row.parity.agreement is None else f", the same class in {row.parity.agreement:.0%}"
        yield f"outputs for random inputs differ by {share_shown(row.parity.difference, 2)} of their range{same}"
    elif row.parity is None and row.latency is not None:
        yield "outputs have different shapes from the reference's"
    if row.latency is not None:
        yield from row.latency.doubts
    if row.serving is not None and row.serving.energy is not None:
        yield f"energy from {row.serving.energy.source}, over {row.serving.energy.runs} runs, idle power included"


def of_health(health: Health) -> RenderableType:
    """Return what the doctor found as a table, with missing runtimes and problems below."""
    made = table("runtime", "version", "state", "float32", "INT8", "in INT8", "16 / 1")
    for check in health.checks:
        made.add_row(short(check.runtime), check.version.partition("-")[0], check.state, *_found(check))
    legend = ["float32, INT8: difference from PyTorch · 16 / 1: time of 16 examples over that of 1"]
    if any(check.state == IMPORTED for check in health.checks):
        legend.append("imported: not tried, because it builds slowly; --runtime NAME tries it")
    wrong = [check for check in health.checks if check.reason]
    reasons = [check.reason if check.state == MISSING else f"{short(check.runtime)} {check.reason}" for check in wrong]
    return Group(made, *map(Text, (*legend, "", *reasons, *_machine(health))))


def _found(check: Check) -> Iterator[str]:
    """Yield the differences in float and INT8, the share in INT8, and the time of 16 examples over that of one."""
    for value, digits in ((check.float_difference, 2), (check.int8_difference, 2), (check.int8_share, 0)):
        yield "–" if value is None else f"{value:.{digits}%}"
    yield f"{check.batch_times_ms[0] / check.batch_times_ms[1]:.1f}" if check.batch_times_ms else "–"


def _machine(health: Health) -> Iterator[str]:
    it = health.machine
    yield f"machine: {it['cpu']}, {it['cores']} cores, load {it['load']}, governor {it['governor']}"
    yield f"locks: in {it['locks']}; all measuring and training on this machine takes turns by them"
    yield "noise: nothing could be timed" if health.noise is None else _noise(health.noise)
    yield "energy: " + (
        ", ".join(f"{device} by {source}" for device, source in health.energy.items())
        or "neither NVML nor a readable RAPL counter"
    )


def _noise(noise: Noise) -> str:
    return (
        f"noise: a model of {noise.milliseconds:.2f} ms against itself {noise.ratio:.3f} ±{noise.half_width:.3f}, "
        f"worst window {noise.worst:.1%} off, wall / CPU {noise.contention:.2f}"
    )
