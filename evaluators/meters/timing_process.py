"""The timing protocol, in a process that does nothing else and loads neither torch nor ray.

    python -m autocompress.evaluators.meters.timing_process DIRECTORY

reads ``request.json``, ``inputs.npz`` and the model files that the request names; it writes ``result.json``.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InfeasibleError
from ..device_lock import quiet
from ..environment import UNPAUSED
from ..measurement import CONTENDED, MEDIAN, quantile
from ..runtime import Arrays, DeviceEngine, Engine, Runtime
from ..runtimes import load
from ..subprocess_protocol import answer, turn
from .bridge import nearest, roughly_ms
from .latency import BUILD, TIME, Plan, settled
from .memory import last_level_cache

Stopwatch = Callable[[int], list[int]]
"""Runs a model so many times, after one run that is not counted, and returns each run's nanoseconds."""


READINGS = 1000
"""Readings of a clock, one right after the other, that tell what one costs."""


@dataclass(frozen=True)
class Clock:
    """The clock that times each run, the same for all interleaved models.

    Attributes:
        name: ``cpu``, ``wall``, or ``device`` if each engine's device has its own clock.
        now: returns nanoseconds; not called if the device has its own clock.
    """

    name: str
    now: Callable[[], int]

    @classmethod
    def of(cls, threads: int, devices: Collection[str] = ("cpu",), *, own: bool = False) -> Clock:
        """Return the clock for a number of threads on these kinds of devices.

        CPU time for one thread, counted for the whole process because some runtimes have their own thread. Wall time
        for several threads, which wait for each other, and for GPUs, which the CPU waits for asleep.

        Args:
            threads: of the runtimes.
            devices: see `Capabilities.device`.
            own: whether every engine reports its device's times.
        """
        if own:
            return cls("device", time.perf_counter_ns)
        if threads == 1 and set(devices) == {"cpu"}:
            return cls("cpu", time.process_time_ns)
        return cls("wall", time.perf_counter_ns)

    def cost_ns(self) -> float:
        """Return the time between two consecutive readings: a CPU-time reading is a system call."""
        readings = [self.now() for _ in range(READINGS)]
        return quantile([after - before for before, after in pairwise(readings)], MEDIAN)

    def stopwatch(self, engine: Engine, inputs: Arrays) -> Stopwatch:
        """Return a function that times an engine, without the cost of the readings."""
        if self.name == "device":
            assert isinstance(engine, DeviceEngine)
            device = engine
            return lambda runs: device.device_ns(inputs, runs)
        cost = round(self.cost_ns())

        def watch(runs: int) -> list[int]:
            times = []
            engine.infer(inputs)  # meets the caches that another model has left
            for _ in range(runs):
                start = self.now()
                engine.infer(inputs)
                times.append(max(1, self.now() - start - cost))
            return times

        return watch


@dataclass(frozen=True)
class Stretch:
    """The times of one window: one tuple of nanoseconds for each model, and the contention.

    Attributes:
        contention: see `Window.contention`.

    """

    times_ns: tuple[tuple[int, ...], ...]
    contention: float

    def estimate(self, percentile: float) -> float:
        """Return the last model's time over the first's; of a single model, its time in nanoseconds."""
        first, *_, last = (1.0, *(quantile(times, percentile) for times in self.times_ns))[-2:]
        return last / first


LONGEST_BLOCK = 2000
"""Runs of one model before the other has its turn, however fast it is: 20 milliseconds of one of 10 microseconds."""


def blocks_of(times_ns: Sequence[Sequence[int]], plan: Plan) -> list[int]:
    """Return the runs in each model's block, estimated from a few of its times: enough for `plan.block_s`.

    Otherwise a fast model would run only for a moment between two turns of a slow one, with the slow one's cache state.
    """
    typical = (max(1.0, quantile(times, MEDIAN)) for times in times_ns)
    return [max(plan.block, min(LONGEST_BLOCK, round(plan.block_s * 1e9 / time_ns))) for time_ns in typical]


def time_window(
    watches: Sequence[Stopwatch],
    plan: Plan,
    *,
    blocks: Sequence[int] | None = None,
    threads: int = 1,
    clock: str = "cpu",
) -> Stretch:
    """Time the models in alternating blocks, by default of `plan.block` runs.

    The window ends with the first whole turn after `plan.min_runs` runs of each model and `plan.min_window_s`.
    """
    blocks = blocks or [plan.block] * len(watches)
    times: list[list[int]] = [[] for _ in watches]
    start = _Usage.now()
    while len(times[0]) < plan.min_runs or time.perf_counter_ns() - start.wall < plan.min_window_s * 1e9:
        for watch, taken, block in zip(watches, times, blocks, strict=True):
            taken += watch(block)
    return Stretch(tuple(map(tuple, times)), _Usage.now().contention_since(start, threads, clock))


def time_windows(
    watches: Sequence[Stopwatch],
    plan: Plan,
    *,
    threads: int = 1,
    clock: str = "cpu",
    alone: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> tuple[list[Stretch], int]:
    """Warm up the models, then time separate windows until they suffice.

    Disturbed windows are measured again, at most `plan.max_windows` / 2 times in all.

    Args:
        watches: the models.
        plan: how long to measure.
        threads: of the runtimes.
        clock: see `Clock`.
        alone: holds the device, for all windows or for each; see `Plan.shared`.

    Returns:
        The windows, and the number of repeated ones.
    """
    throughout, each = (nullcontext, alone) if plan.shared else (alone, nullcontext)
    windows: list[Stretch] = []
    again = 0
    with throughout():
        with each():
            blocks = blocks_of([watch(plan.warmup) for watch in watches], plan)
        while not settled([window.estimate(plan.percentile) for window in windows], plan):
            if windows or again:
                time.sleep(plan.gap_s)
            with each():
                window = time_window(watches, plan, blocks=blocks, threads=threads, clock=clock)
            if window.contention > CONTENDED and again < plan.max_windows // 2:
                again += 1
            else:
                windows.append(window)
    return windows, again


@dataclass(frozen=True)
class _Usage:
    """Readings at one moment, in nanoseconds: wall time, this process's CPU time, all processes' CPU time."""

    wall: int
    cpu: int
    machine: int | None

    @classmethod
    def now(cls) -> _Usage:
        return cls(time.perf_counter_ns(), time.process_time_ns(), _busy_ns())

    def contention_since(self, start: _Usage, threads: int, clock: str) -> float:
        wall, cpu = self.wall - start.wall, self.cpu - start.cpu
        if clock == "cpu":
            return wall / max(cpu, 1)
        if self.machine is None or start.machine is None:
            return 1.0
        others = max(0.0, (self.machine - start.machine - cpu) / wall)
        return max(1.0, (others + threads) / max(threads, os.cpu_count() or 1))


def _busy_ns() -> int | None:
    """Return the CPU time of all processes since boot, if the system reports it."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) * 10**9 // os.sysconf("SC_CLK_TCK")


def serve(directory: Path, request: Mapping[str, Any]) -> dict[str, object]:
    """Time a request's models; return the fields of its ``result.json``.

    Raises:
        InfeasibleError: a runtime refuses a model.
    """
    threads, plan = request["threads"], Plan(**request["plan"])
    with np.load(directory / "inputs.npz") as arrays, ExitStack() as stack:
        inputs = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
        with turn(BUILD):
            servers, engines, build_s, reference = _built(directory, request, inputs, stack)
        device = [engine for engine in engines if isinstance(engine, DeviceEngine)]
        devices = {server.capabilities.device for server in servers}
        clock = Clock.of(threads, devices, own=len(device) == len(engines))
        watches = [clock.stopwatch(engine, inputs) for engine in engines]
        conditions: list[Mapping[str, str]] = []
        paused: list[bool] = []

        @contextmanager
        def alone() -> Iterator[None]:
            with turn(TIME), quiet() as all_paused:
                paused.append(all_paused)
                conditions.append(_conditions())
                yield
                conditions.append(_conditions())

        windows, again = time_windows(watches, plan, threads=threads, clock=clock.name, alone=alone)
        before, *_, after = conditions
        device_conditions = _alike([engine.conditions() for engine in device if clock.name == "device"])
    return {
        "windows": [(window.times_ns, window.contention) for window in windows],
        "clock": clock.name,
        "reference": reference,
        "build_s": build_s,
        "environment": {
            **{k: v for server in servers for k, v in server.describe().items()},
            **device_conditions,
            "threads": str(threads),
            "nice": str(os.nice(0)),
            "last_level_cache": str(last_level_cache() or "") if devices == {"cpu"} else "",
            "trainers_paused": "yes" if all(paused) else UNPAUSED,
            "windows_measured_again": str(again),
            "started": before["time"],
            "finished": after["time"],
            "load_before": before["load"],
            "load_after": after["load"],
            "involuntary_switches": str(int(after["preempted"]) - int(before["preempted"])),
        },
    }


def _built(
    directory: Path, request: Mapping[str, Any], inputs: Arrays, stack: ExitStack
) -> tuple[list[Runtime], list[Engine], list[float], int]:
    """Build the candidate, and then the reference that is nearest to it; the candidate is the request's last model.

    Returns:
        The runtimes, the engines and the seconds to build them, the candidate's last; and which reference it is.
    """
    names, references_ms = request["runtimes"], request["references_ms"]

    def built(i: int) -> tuple[Runtime, Engine, float]:
        server, started = load(names[i]), time.perf_counter()
        model = (directory / f"model{i}").read_bytes()
        engine = stack.enter_context(server.build(model, threads=request["threads"]))
        return server, engine, time.perf_counter() - started

    last = len(names) - 1
    found, reference = [built(last)], 0
    if references_ms:
        if len(references_ms) > 1:
            reference = nearest(references_ms, roughly_ms(found[0][1], inputs))
        found.insert(0, built(reference))
    servers, engines, build_s = map(list, zip(*found, strict=True))
    return servers, engines, build_s, reference


def _alike(conditions: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """Return the common timing conditions of interleaved engines.

    Raises:
        InfeasibleError: their work was launched in different ways, so their times cannot be compared.

    """
    modes = [condition["gpu_mode"] for condition in conditions if "gpu_mode" in condition]
    if len(set(modes)) > 1:
        raise InfeasibleError(f"The baseline ran as {modes[0]} and the candidate as {modes[1]}.", rung="latency")
    return {name: value for condition in conditions for name, value in condition.items()}


def _conditions() -> Mapping[str, str]:
    """Return the time, the load average of the last minute, and this process's number of preemptions."""
    return {
        "time": datetime.now(UTC).isoformat(),
        "load": f"{os.getloadavg()[0]:.2f}",
        "preempted": str(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw),
    }


if __name__ == "__main__":
    answer(serve)
