"""Measures latency: interleaved with the baseline, in a fresh process, one measurement at a time on each machine.

The result is a ratio: other tenants of the machine shift absolute times by a third, but the ratio of interleaved runs
by only a few percent. The ratio varies between time windows, not within one, so the windows decide when to stop.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..device_lock import exclusive, off_the_floor, on_the_floor, quiet
from ..measurement import MEDIAN, Latency, Window, half_width, quantile
from ..runtime import Arrays, Kernel
from ..runtimes import load
from ..runtimes.fake import FakeRuntime
from ..scratch import scratch
from ..subprocess_protocol import ask
from .bridge import Bridge
from .memory import peak_memory
from .serve_once import serve_once

FAKE = FakeRuntime()

SERVING_TIMEOUT_S = 600.0

BUILD, TIME = b"b", b"t"
"""The turns of a timing process: it builds its engines, then it times them."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to measure.

    Attributes:
        min_windows: windows before the interval is checked.
        max_windows: windows after which a wide interval is accepted.
        gap_s: pause between windows, in seconds.
        min_runs: timed runs of each model in a window.
        min_window_s: shortest window, in seconds.
        tolerance: half-width of the 95 % interval between windows, relative to the ratio, at which to stop.
        block: minimum timed runs of one model before the other model's turn.
        block_s: minimum duration of a block, in seconds; fast models get more runs.
        warmup: untimed runs of each model before the first window.
        percentile: percentile of a window's run times that counts; 50 is the median.
        processes: fresh processes for a model faster than `FAST_MS`, each with all windows; others take one.
        shared: whether others may train and measure in the pauses between windows.
    """

    min_windows: int
    max_windows: int
    gap_s: float
    min_runs: int
    min_window_s: float
    tolerance: float
    block: int = 5
    block_s: float = 0.02
    warmup: int = 5
    percentile: float = MEDIAN
    processes: int = 1
    shared: bool = False


FAST_MS = 5.0
"""A faster model lives in the caches, and how fast it is there differs more from process to process."""

SEARCH = Plan(min_windows=3, max_windows=6, gap_s=0.05, min_runs=10, min_window_s=0.25, tolerance=0.04, processes=3)
"""For every candidate of a search; differences under 5 % are ties."""

PROBE = replace(SEARCH, processes=1)
"""For what is tried before a search: what it teaches is made better by the trials."""

CAREFUL = Plan(min_windows=9, max_windows=12, gap_s=1.0, min_runs=20, min_window_s=0.3, tolerance=0.02)
"""For the baseline and for what is reported."""


def settled(estimates: Sequence[float], plan: Plan) -> bool:
    """Return whether the windows suffice: their interval is narrow, or the plan allows no more.

    The interval is the one between windows: all runs within a window share the machine's state.
    """
    n = len(estimates)
    if n < plan.min_windows:
        return False
    return n >= plan.max_windows or half_width(estimates) < plan.tolerance * statistics.fmean(estimates)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The baseline's absolute time on this machine, with its spread.

    Attributes:
        median_ms: median of the windows' times; a window's time is the plan's percentile of its runs.
        low_ms: the fastest window's time.
        high_ms: the slowest window's time.
        windows: clock readings of single runs, in nanoseconds, one tuple for each window.
        environment: versions, device and load.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    windows: tuple[tuple[int, ...], ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, windows: Sequence[Sequence[int]], environment: Mapping[str, str], percentile: float = MEDIAN
    ) -> Calibration:
        """Summarise windows of clock readings in nanoseconds."""
        times_ms = [quantile(window, percentile) / 1e6 for window in windows]
        return cls(
            median_ms=statistics.median(times_ms),
            low_ms=min(times_ms),
            high_ms=max(times_ms),
            windows=tuple(map(tuple, windows)),
            environment=environment,
        )

    @property
    def spread(self) -> float:
        """Half of the range between the fastest and the slowest window, relative to the median."""
        return spread(self.low_ms, self.median_ms, self.high_ms)


def spread(low: float, middle: float, high: float) -> float:
    """Return half of a range relative to its middle.

    >>> spread(9.0, 10.0, 12.0)
    0.15
    """
    return (high - low) / 2 / middle if middle > 0 else 0.0


class Meter(Protocol):
    """Measures candidates against one baseline."""

    def calibrate(self, plan: Plan = CAREFUL, *, timeout_s: float | None = None) -> Calibration:
        """Time the baseline alone."""
        ...

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Time a runtime's own file against the baseline.

        Args:
            artefact: the file from the runtime's `convert`.
            plan: how long to measure.
            runtime: runtime that serves it; None takes the baseline's.
            timeout_s: seconds after which the measurement fails.

        Raises:
            InfeasibleError: it cannot be built, or its process crashed, failed, exhausted memory or timed out.
        """
        ...

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return the peak memory in bytes of a fresh process that serves a file; None if unknown."""
        ...

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        """Return the millijoules of one run of a file; needs a counter. None if nothing runs.

        Raises:
            InfeasibleError: see `measure`.
        """
        ...

    def kernels(self, artefact: bytes, *, runtime: str | None = None) -> Sequence[Kernel]:
        """Return what a built model executes, see `Runtime.kernels`."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ProcessMeter:
    """Measures each call in a fresh process, which holds the devices' locks while it times; trainers pause then.

    Attributes:
        baseline: the unchanged network in its runtime's own file.
        runtime: name of the runtime that serves it.
        inputs: one array for each input of the network, in order, batch first.
        threads: threads of the runtime; one thread is timed by CPU time, several by wall time.
        baseline_ms: calibrated milliseconds of the baseline; `measure` needs them.
        baseline_spread: their relative spread; see `Calibration.spread`.
        percentile: percentile of a window's run times that counts.
        bridges: small references; a candidate is timed against the nearest of them and the baseline.
    """

    baseline: bytes
    runtime: str
    inputs: Arrays
    threads: int = 1
    baseline_ms: float | None = None
    baseline_spread: float = 0.0
    percentile: float = MEDIAN
    bridges: tuple[Bridge, ...] = ()

    def calibrate(self, plan: Plan = CAREFUL, *, timeout_s: float | None = None) -> Calibration:
        """Time the baseline alone."""
        result = self._run([(self.runtime, self.baseline)], plan, timeout_s)
        windows = [times[0] for times, _ in result["windows"]]
        return Calibration.of(windows, result["environment"], self.percentile)

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Time a runtime's own file against the baseline; see `Meter.measure`."""
        if self.baseline_ms is None:
            raise ValueError("baseline_ms must be calibrated before a candidate is measured, got None.")
        latency = self._measure(artefact, plan, runtime or self.runtime, self.baseline_ms, timeout_s)
        while latency.median_ms < FAST_MS and latency.processes < plan.processes:
            again = self._measure(artefact, plan, latency.runtime, self.baseline_ms, timeout_s)
            latency = latency.joined(again)
        return latency

    def _measure(
        self, artefact: bytes, plan: Plan, runtime: str, baseline_ms: float, timeout_s: float | None
    ) -> Latency:
        """Time a file against the baseline in one process."""
        bridges = (Bridge(artefact=self.baseline, ratio=1.0, spread=0.0), *self.bridges)
        models = [(self.runtime, bridge.artefact) for bridge in bridges]
        references_ms = [bridge.ratio * baseline_ms for bridge in bridges]
        result = self._run([*models, (runtime, artefact)], plan, timeout_s, references_ms)
        bridge = bridges[result["reference"]]
        windows = (
            Window(
                baseline_ns=tuple(reference),
                candidate_ns=tuple(candidate),
                contention=contention,
                bridge=bridge.ratio,
            )
            for (reference, candidate), contention in result["windows"]
        )
        return Latency(
            windows=tuple(windows),
            baseline_ms=baseline_ms,
            runtime=runtime,
            clock=result["clock"],
            threads=self.threads,
            percentile=self.percentile,
            baseline_spread=self.baseline_spread,
            build_s=result["build_s"][-1],
            processes=1,
            bridge_spread=bridge.spread,
            environment=result["environment"],
        )

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return the peak memory of a fresh process in bytes; see `Meter.memory`."""
        name = runtime or self.runtime
        with off_the_floor(), _building([name]):  # nothing is timed
            return peak_memory(name, artefact, self.inputs, threads=self.threads, timeout_s=SERVING_TIMEOUT_S)

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        """Return the millijoules of one run; see `Meter.energy`."""
        name, batches = runtime or self.runtime, [self.inputs]
        with _alone([name]), quiet():  # the counter is of the whole device
            serving = serve_once(
                name, artefact, batches, threads=self.threads, timeout_s=SERVING_TIMEOUT_S, energy=True
            )
        return None if serving.energy is None else 1e3 * serving.energy.joules

    def kernels(self, artefact: bytes, *, runtime: str | None = None) -> Sequence[Kernel]:
        """Return what a built model executes, with the device locked; see `Meter.kernels`."""
        server = load(runtime or self.runtime)
        with _alone([server.name]):
            return server.kernels(artefact, self.inputs)

    def _run(
        self,
        models: Sequence[tuple[str, bytes]],
        plan: Plan,
        timeout_s: float | None,
        references_ms: Sequence[float] = (),
    ) -> dict[str, Any]:
        """Return the timing process's result for models, each with its runtime's name; the last is the candidate."""
        names = [name for name, _ in models]
        plan = replace(plan, percentile=self.percentile)
        with scratch() as directory:
            for i, (_, model) in enumerate(models):
                (directory / f"model{i}").write_bytes(model)
            np.savez(directory / "inputs.npz", *self.inputs)
            request = {
                "runtimes": names,
                "threads": self.threads,
                "plan": asdict(plan),
                "references_ms": list(references_ms),
            }
            with off_the_floor():
                return ask(
                    "autocompress.evaluators.meters.timing_process",
                    directory,
                    request,
                    threads=self.threads,
                    timeout_s=timeout_s,
                    doing="timed",
                    rung="latency",
                    turns={BUILD: partial(_building, names), TIME: partial(_alone, names)},
                )


def _building(runtimes: Sequence[str]) -> AbstractContextManager[None]:
    """Let a process build: beside trainers on a processor, alone on a GPU, where builders time kernels."""
    accelerated = [name for name in runtimes if load(name).capabilities.device != "cpu"]
    return _alone(accelerated) if accelerated else on_the_floor()


@contextmanager
def _alone(runtimes: Sequence[str]) -> Iterator[None]:
    """Hold the locks of the runtimes' devices, and stop training in this process meanwhile."""
    with off_the_floor(), ExitStack() as held:
        for device in sorted(set(map(device_of, runtimes))):  # in one order, so that nobody waits in a ring
            held.enter_context(exclusive(device))
        yield


def device_of(runtime: str) -> str:
    """Return the name of the lock of a runtime's device."""
    server = load(runtime)
    key = getattr(server, "device_key", None)
    return str(key()) if key is not None else server.capabilities.device


@dataclass(frozen=True, kw_only=True)
class FakeMeter:
    """Returns the fake runtime's known latencies: no clock, and a spread of 0.1 % between windows."""

    baseline: bytes
    baseline_ms: float | None = None
    baseline_spread: float = 0.0

    def calibrate(self, plan: Plan = CAREFUL, *, timeout_s: float | None = None) -> Calibration:
        """Return the known time of the baseline."""
        return Calibration.of([(time,) for time in self._windows(self.baseline, plan)], FAKE.describe())

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Return the known time of a candidate; see `Meter.measure`."""
        baseline_ns = FAKE.latency_ns(self.baseline)
        return Latency(
            windows=tuple(
                Window(baseline_ns=(baseline_ns,), candidate_ns=(time,)) for time in self._windows(artefact, plan)
            ),
            baseline_ms=baseline_ns / 1e6 if self.baseline_ms is None else self.baseline_ms,
            runtime=FAKE.name,
            clock="fake",
            baseline_spread=self.baseline_spread,
            environment=FAKE.describe(),
        )

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return nothing: nothing serves the file."""
        return None

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        """Return nothing, likewise."""
        return None

    def kernels(self, artefact: bytes, *, runtime: str | None = None) -> Sequence[Kernel]:
        """Return nothing; see `FakeRuntime.kernels`."""
        return FAKE.kernels(artefact, ())

    def _windows(self, artefact: bytes, plan: Plan) -> list[int]:
        time = FAKE.latency_ns(artefact)
        return [time + (i % 3 - 1) * time // 1000 for i in range(1, 1 + plan.min_windows)]


def meter_for(
    runtime: str,
    *,
    baseline: bytes,
    inputs: Arrays,
    threads: int = 1,
    baseline_ms: float | None = None,
    baseline_spread: float = 0.0,
    percentile: float = MEDIAN,
    bridges: tuple[Bridge, ...] = (),
) -> FakeMeter | ProcessMeter:
    """Return the meter of a runtime; the arguments are those of `ProcessMeter`."""
    if runtime == FAKE.name:
        return FakeMeter(baseline=baseline, baseline_ms=baseline_ms, baseline_spread=baseline_spread)
    return ProcessMeter(
        baseline=baseline,
        runtime=runtime,
        inputs=inputs,
        threads=threads,
        baseline_ms=baseline_ms,
        baseline_spread=baseline_spread,
        percentile=percentile,
        bridges=bridges,
    )
