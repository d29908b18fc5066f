"""How latency is measured: interleaved with the baseline, in a fresh process, one at a time on a machine.

The claim is a ratio: times drift by a third with the machine's other tenants, the ratio of interleaved runs by a few
percent. It drifts between windows of time, not within one, so the windows decide when to stop.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import InfeasibleError
from .measurement import Latency, Window, half_width
from .runtimes import Arrays
from .runtimes.fake import FakeRuntime

FAKE = FakeRuntime()

LOCK = "autocompress-device-cpu.lock"
"""File in the directory for temporary files; who locks it has the processor for a measurement."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to measure.

    Attributes:
        min_windows: windows before the interval is looked at.
        max_windows: windows after which a wide interval is accepted.
        gap_s: pause between windows, in seconds.
        min_runs: timed runs of each model in a window.
        min_window_s: shortest window, in seconds.
        tolerance: half-width of the 95 % interval between windows, relative to the ratio, that is narrow enough.
        block: timed runs of one model before the other has its turn.
        warmup: untimed runs of each model before the first window.
    """

    min_windows: int
    max_windows: int
    gap_s: float
    min_runs: int
    min_window_s: float
    tolerance: float
    block: int = 5
    warmup: int = 5


SEARCH = Plan(min_windows=3, max_windows=6, gap_s=0.2, min_runs=20, min_window_s=0.25, tolerance=0.04)
"""For every candidate of a search; differences under 5 % are ties."""

CAREFUL = Plan(min_windows=9, max_windows=12, gap_s=1.0, min_runs=40, min_window_s=0.3, tolerance=0.02)
"""For the baseline and for what is reported."""


def settled(estimates: Sequence[float], plan: Plan) -> bool:
    """Tell whether the windows so far are enough: their interval is narrow, or there are as many as the plan allows.

    The interval is the one between windows: within a window all runs share the machine's mood.
    """
    n = len(estimates)
    if n < plan.min_windows:
        return False
    return n >= plan.max_windows or half_width(estimates) < plan.tolerance * statistics.median(estimates)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The baseline's own time: a property of the machine, with its spread.

    Attributes:
        median_ms: median of the windows' medians.
        low_ms: the fastest window's median.
        high_ms: the slowest window's median.
        windows: clock readings of single runs, in nanoseconds, one tuple a window.
        environment: versions, device and load.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    windows: tuple[tuple[int, ...], ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, windows: Sequence[Sequence[int]], environment: Mapping[str, str]) -> Calibration:
        """Summarise windows of clock readings in nanoseconds."""
        medians_ms = [statistics.median(window) / 1e6 for window in windows]
        return cls(
            median_ms=statistics.median(medians_ms),
            low_ms=min(medians_ms),
            high_ms=max(medians_ms),
            windows=tuple(map(tuple, windows)),
            environment=environment,
        )


class Meter(Protocol):
    """Something that measures candidates against one baseline."""

    def calibrate(self, plan: Plan = CAREFUL, *, timeout_s: float | None = None) -> Calibration:
        """Time the baseline alone."""
        ...

    def measure(self, artefact: bytes, plan: Plan, *, timeout_s: float | None = None) -> Latency:
        """Time a flavoured ONNX file against the baseline.

        Raises:
            InfeasibleError: it cannot be built, or its process crashed, failed or outlived `timeout_s`.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ProcessMeter:
    """Measures in one fresh process a call, while it holds the machine's lock.

    Attributes:
        baseline: the flavoured ONNX file of the unchanged network.
        runtime: name of the runtime that serves both.
        inputs: one array an input of the network, in its order, batch first.
        threads: threads of the runtime; one is timed by CPU time, several by wall time.
        baseline_ms: calibrated milliseconds of the baseline; `measure` needs them.
    """

    baseline: bytes
    runtime: str
    inputs: Arrays
    threads: int = 1
    baseline_ms: float | None = None

    def calibrate(self, plan: Plan = CAREFUL, *, timeout_s: float | None = None) -> Calibration:
        """Time the baseline alone."""
        result = self._run({"baseline.onnx": self.baseline}, plan, timeout_s)
        return Calibration.of([times[0] for times, _ in result["windows"]], result["environment"])

    def measure(self, artefact: bytes, plan: Plan, *, timeout_s: float | None = None) -> Latency:
        """Time a flavoured ONNX file against the baseline; see `Meter.measure`."""
        if self.baseline_ms is None:
            raise ValueError("baseline_ms must be calibrated before a candidate is measured, got None.")
        result = self._run({"baseline.onnx": self.baseline, "candidate.onnx": artefact}, plan, timeout_s)
        windows = (
            Window(baseline_ns=tuple(baseline), candidate_ns=tuple(candidate), wall_over_cpu=wall_over_cpu)
            for (baseline, candidate), wall_over_cpu in result["windows"]
        )
        return Latency(
            windows=tuple(windows),
            baseline_ms=self.baseline_ms,
            runtime=self.runtime,
            clock="cpu" if self.threads == 1 else "wall",
            threads=self.threads,
            environment=result["environment"],
        )

    def _run(self, models: Mapping[str, bytes], plan: Plan, timeout_s: float | None) -> dict[str, Any]:
        """Return what `autocompress.evaluators.timing` makes of the models."""
        request = {"runtime": self.runtime, "threads": self.threads, "plan": asdict(plan), "parent": os.getpid()}
        with tempfile.TemporaryDirectory(prefix="autocompress-") as name:
            directory = Path(name)
            for file, model in models.items():
                (directory / file).write_bytes(model)
            np.savez(directory / "inputs.npz", *self.inputs)
            (directory / "request.json").write_text(json.dumps(request))
            with _exclusive():
                _time(directory, self.threads, timeout_s)
            result: dict[str, Any] = json.loads((directory / "result.json").read_text())
        if "reason" in result:
            raise InfeasibleError(result["reason"], rung=result["rung"])
        return result


@dataclass(frozen=True, kw_only=True)
class FakeMeter:
    """Knows the latencies of the fake runtime; no clock, and a spread of a thousandth between windows."""

    baseline: bytes
    baseline_ms: float | None = None

    def calibrate(self, plan: Plan = CAREFUL, *, timeout_s: float | None = None) -> Calibration:
        """Return the known time of the baseline."""
        return Calibration.of([(time,) for time in self._windows(self.baseline, plan)], FAKE.describe())

    def measure(self, artefact: bytes, plan: Plan, *, timeout_s: float | None = None) -> Latency:
        """Return the known time of a candidate; see `Meter.measure`."""
        baseline_ns = FAKE.latency_ns(self.baseline)
        return Latency(
            windows=tuple(
                Window(baseline_ns=(baseline_ns,), candidate_ns=(time,)) for time in self._windows(artefact, plan)
            ),
            baseline_ms=baseline_ns / 1e6 if self.baseline_ms is None else self.baseline_ms,
            runtime=FAKE.name,
            clock="fake",
            environment=FAKE.describe(),
        )

    def _windows(self, artefact: bytes, plan: Plan) -> list[int]:
        time = FAKE.latency_ns(artefact)
        return [time + (i % 3 - 1) * time // 1000 for i in range(1, 1 + plan.min_windows)]


def meter_for(
    runtime: str, *, baseline: bytes, inputs: Arrays, threads: int = 1, baseline_ms: float | None = None
) -> Meter:
    """Return the meter of a runtime; the arguments are those of `ProcessMeter`."""
    if runtime == FAKE.name:
        return FakeMeter(baseline=baseline, baseline_ms=baseline_ms)
    return ProcessMeter(baseline=baseline, runtime=runtime, inputs=inputs, threads=threads, baseline_ms=baseline_ms)


@contextmanager
def _exclusive() -> Iterator[None]:
    """Hold the machine's lock, whoever else measures here, under whatever user."""
    path = Path(tempfile.gettempdir(), LOCK)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CREAT, 0o666)
        with suppress(PermissionError):  # another user was faster
            os.fchmod(descriptor, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a fork of this process may keep the file open
        os.close(descriptor)


def _time(directory: Path, threads: int, timeout_s: float | None) -> None:
    """Run the timing process on a directory; if it crashes, fails or hangs, the candidate is infeasible."""
    log = directory / "stderr.txt"
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    with log.open("wb") as stderr:
        try:
            status = subprocess.run(
                [sys.executable, "-m", "autocompress.evaluators.timing", str(directory)],
                cwd=directory,
                env={**os.environ, **dict.fromkeys(pools, str(threads))},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                timeout=timeout_s,
                process_group=0,  # an interrupt from the terminal is for the parent to answer
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise InfeasibleError(f"The model was not timed within {timeout_s:g} s.", rung="latency") from error
    if status < 0:
        crash = signal.Signals(-status).name
        raise InfeasibleError(f"The runtime crashed with {crash} while it was timed.", rung="latency")
    if status > 0:
        said = [line for line in log.read_text(errors="replace").splitlines() if line[:1].strip()] or [f"exit {status}"]
        raise InfeasibleError(f"The runtime failed while it was timed: {said[-1]}", rung="latency")
