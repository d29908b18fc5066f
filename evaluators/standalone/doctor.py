"""Which runtimes work here, and how quiet this machine is."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InfeasibleError
from ..device_lock import lock_folder
from ..meters import energy
from ..meters.latency import Plan, meter_for
from ..runtimes import RUNTIMES, load
from ..runtimes.host import describe_host
from ..scratch import scratch
from ..subprocess_protocol import run
from .model_file import offered

if TYPE_CHECKING:
    from .sample_network import Specimen

SLOW = frozenset({"litert", "litert:dynamic", "pytorch:compile", "pytorch:aoti"})
"""Runtimes that take half a minute and more to build anything; only imported unless they are asked for."""

WORKS, IMPORTED, MISSING, FAILS = "works", "imported", "missing", "fails"

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")

NOISE = Plan(min_windows=5, max_windows=5, gap_s=0.2, min_runs=20, min_window_s=0.3, tolerance=0.0)
"""How long a model is timed against itself."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one runtime does here.

    Attributes:
        runtime: its name.
        state: `WORKS`, `IMPORTED` (it was only imported), `MISSING` or `FAILS`.
        version: of its package; empty where that is not installed.
        float_difference: largest difference from PyTorch in float, as a share of the outputs' range.
        int8_difference: the same in INT8, where it has that.
        int8_share: of the INT8 file's multiply-accumulates, those in fewer than 32 bits; None where it cannot tell.
        batch_times_ms: shortest run of sixteen examples, and of one.
        reason: what is wrong, and the way out.
        seconds: that all this took.
        environment: versions and device.

    """

    runtime: str
    state: str
    version: str = ""
    float_difference: float | None = None
    int8_difference: float | None = None
    int8_share: float | None = None
    batch_times_ms: tuple[float, ...] = ()
    reason: str = ""
    seconds: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A small model timed against itself.

    Attributes:
        runtime: what served it.
        milliseconds: of one run.
        ratio: of the two, which is 1 where nothing disturbs.
        half_width: of the ratio's 95 % interval.
        worst: how far the worst window's ratio is from 1.
        contention: see `Window.contention`; the median.

    """

    runtime: str
    milliseconds: float
    ratio: float
    half_width: float
    worst: float
    contention: float


@dataclass(frozen=True, kw_only=True)
class Health:
    """All that is known of this machine.

    Attributes:
        checks: one a runtime.
        noise: of the first runtime that works and reads ONNX files; None where there is none.
        machine: processor, cores, load, governor.
        energy: the counter of each device that has one.

    """

    checks: tuple[Check, ...]
    noise: Noise | None
    machine: Mapping[str, str]
    energy: Mapping[str, str]

    @property
    def works(self) -> bool:
        """Whether any runtime does."""
        return any(check.state == WORKS for check in self.checks)


def examine(runtimes: Sequence[str] = (), *, notice: Callable[[str], object] = lambda text: None) -> Health:
    """Try runtimes, each in a process of its own, and time a model against itself.

    Args:
        runtimes: names; empty for all, of which the slow ones are only imported.
        notice: gets each line of progress.

    Raises:
        UsageError: no such runtime.

    """
    names = [load(name).name for name in runtimes] or [server.name for server in offered()]
    notice("makes a small network")
    from .sample_network import sample_network  # noqa: PLC0415  # start-up time: torch is slow to import

    sample = sample_network()
    checks = []
    for name in names:
        notice(f"{name}: tried")
        checks.append(check(name, sample, whole=bool(runtimes) or name not in SLOW))
    working = [found.runtime for found in checks if found.state == WORKS]
    notice("a model is timed against itself")
    timed = (noise(name, sample) for name in dict.fromkeys((*working, RUNTIMES[0])))
    found = next(filter(None, timed), None)
    return Health(checks=tuple(checks), noise=found, machine=machine(), energy=energy.sources())


def check(runtime: str, sample: Specimen, *, whole: bool = True, timeout_s: float = 300.0) -> Check:
    """Try one runtime; whatever happens to it is an answer.

    Args:
        runtime: its name.
        sample: the network to try it on.
        whole: whether to build and run it; otherwise it is only imported.
        timeout_s: seconds after which it is given up.

    """
    started = time.perf_counter()
    with scratch() as folder:
        (folder / "request.json").write_text(json.dumps({"runtime": runtime, "whole": whole}))
        (folder / "float.onnx").write_bytes(sample.onnx)
        (folder / "int8.onnx").write_bytes(sample.int8)
        np.savez(folder / "examples.npz", inputs=sample.inputs, expected=sample.expected)
        crash = ""
        try:
            run(
                "autocompress.evaluators.standalone.selftest",
                folder,
                threads=1,
                timeout_s=timeout_s,
                doing="tested",
                rung="build",
            )
        except InfeasibleError as error:
            crash = error.reason
        result = folder / "result.json"
        found: dict[str, Any] = json.loads(result.read_text()) if result.exists() else {}
    return replace(_judged(runtime, found, crash, whole), seconds=time.perf_counter() - started)


def _judged(runtime: str, found: Mapping[str, Any], crash: str, whole: bool) -> Check:
    environment: Mapping[str, str] = found.get("environment", {})
    known = Check(
        runtime=runtime,
        state=WORKS if whole else IMPORTED,
        version=next(iter(environment.values()), ""),
        float_difference=found.get("float_difference"),
        int8_difference=found.get("int8_difference"),
        int8_share=found.get("int8_share"),
        batch_times_ms=tuple(found.get("batch_times_ms", ())),
        environment=environment,
    )
    if "missing" in found:
        return replace(known, state=MISSING, reason=found["missing"])
    wrong = crash or found.get("reason", "")
    if wrong:
        return replace(known, state=FAILS, reason=f"fails at {found.get('step', 'its start')}: {wrong}")
    return known


def noise(runtime: str, sample: Specimen, plan: Plan = NOISE) -> Noise | None:
    """Time the network against itself; None where the runtime reads no ONNX files, is no processor's, or fails."""
    inputs = [sample.inputs]
    server = load(runtime)
    if ".onnx" not in server.capabilities.reads or server.capabilities.device != "cpu":
        return None
    try:
        meter = meter_for(runtime, baseline=sample.onnx, inputs=inputs)
        calibration = meter.calibrate(plan, timeout_s=120.0)
        latency = replace(meter, baseline_ms=calibration.median_ms).measure(sample.onnx, plan, timeout_s=120.0)
    except InfeasibleError:
        return None
    return Noise(
        runtime=runtime,
        milliseconds=latency.median_ms,
        ratio=latency.ratio,
        half_width=latency.half_width,
        worst=max(abs(ratio - 1) for ratio in latency.ratios),
        contention=statistics.median(window.contention for window in latency.windows),
    )


def machine() -> Mapping[str, str]:
    """Return what timings depend on: the processor, its governor, its load, the locks by which programs take turns."""
    load_now = " ".join(f"{load:.2f}" for load in os.getloadavg())
    nice, locks = str(os.nice(0)), str(lock_folder())
    return {**describe_host(), "load": load_now, "nice": nice, "governor": _governor(), "locks": locks}


def _governor() -> str:
    try:
        return GOVERNOR.read_text().strip()
    except OSError:
        return "unknown"
