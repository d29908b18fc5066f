"""The timing protocol, as the program of a process that does nothing else: it loads neither torch nor ray.

    python -m autocompress.evaluators.timing DIRECTORY

reads ``request.json``, ``inputs.npz``, ``baseline.onnx`` and, unless the baseline is timed alone, ``candidate.onnx``;
it writes ``result.json``.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from ..errors import InfeasibleError
from .latency import Plan, settled
from .runtimes import load

Run = Callable[[], object]


@dataclass(frozen=True)
class Clocks:
    """What is read around a run, and what tells whether the processor was ours; both in nanoseconds."""

    run: Callable[[], int]
    cpu: Callable[[], int]

    @classmethod
    def of(cls, threads: int) -> Clocks:
        """Return CPU time of this thread for one thread, wall time for several."""
        if threads == 1:
            return cls(time.thread_time_ns, time.thread_time_ns)
        return cls(time.perf_counter_ns, time.process_time_ns)


@dataclass(frozen=True)
class Stretch:
    """The times of one window: one tuple of nanoseconds a model, and wall time over CPU time."""

    times_ns: tuple[tuple[int, ...], ...]
    wall_over_cpu: float

    @property
    def estimate(self) -> float:
        """Median of the last model over that of the first; of a single model, its median in nanoseconds."""
        medians = [statistics.median(times) for times in self.times_ns]
        return medians[-1] / medians[0] if len(medians) > 1 else float(medians[0])


def time_window(runs: Sequence[Run], plan: Plan, clocks: Clocks) -> Stretch:
    """Time the models in turns, a block each; the first run after each switch is not counted.

    The window ends with the first whole turn after `plan.min_runs` runs of each model and `plan.min_window_s`.
    """
    times: list[list[int]] = [[] for _ in runs]
    wall, cpu = time.perf_counter_ns(), clocks.cpu()
    while len(times[0]) < plan.min_runs or time.perf_counter_ns() - wall < plan.min_window_s * 1e9:
        for run, taken in zip(runs, times, strict=True):
            run()
            for _ in range(plan.block):
                start = clocks.run()
                run()
                taken.append(clocks.run() - start)
    wall, cpu = time.perf_counter_ns() - wall, clocks.cpu() - cpu
    return Stretch(tuple(map(tuple, times)), wall / cpu)


def time_windows(runs: Sequence[Run], plan: Plan, clocks: Clocks) -> list[Stretch]:
    """Warm the models up, then time windows apart from each other until they are enough."""
    for run in runs:
        for _ in range(plan.warmup):
            run()
    windows: list[Stretch] = []
    while not settled([window.estimate for window in windows], plan):
        if windows:
            time.sleep(plan.gap_s)
        windows.append(time_window(runs, plan, clocks))
    return windows


def serve(directory: Path, *, runtime: str, threads: int, plan: Plan) -> dict[str, object]:
    """Time the models of a directory; return the fields of its ``result.json``.

    Raises:
        InfeasibleError: the runtime refuses a model.
    """
    server = load(runtime)
    with np.load(directory / "inputs.npz") as arrays, ExitStack() as stack:
        inputs = [arrays[f"arr_{i}"] for i in range(len(arrays.files))]
        models = [path for name in ("baseline", "candidate") if (path := directory / f"{name}.onnx").exists()]
        engines = [stack.enter_context(server.build(path.read_bytes(), threads=threads)) for path in models]
        runs = [partial(engine.infer, inputs) for engine in engines]
        before = _conditions()
        windows = time_windows(runs, plan, Clocks.of(threads))
        after = _conditions()
    preempted = int(after["preempted"]) - int(before["preempted"])
    return {
        "windows": [(window.times_ns, window.wall_over_cpu) for window in windows],
        "environment": {
            **server.describe(),
            "threads": str(threads),
            "nice": str(os.nice(0)),
            "started": before["time"],
            "finished": after["time"],
            "load_before": before["load"],
            "load_after": after["load"],
            "involuntary_switches": str(preempted),
        },
    }


def _conditions() -> Mapping[str, str]:
    """Return the time, the load average of the last minute, and how often this process was preempted so far."""
    return {
        "time": datetime.now(UTC).isoformat(),
        "load": f"{os.getloadavg()[0]:.2f}",
        "preempted": str(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw),
    }


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; the check covers a parent that ended before."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("The process that asked for this measurement has ended.")


def main(directory: Path) -> None:
    """Serve the request of a directory."""
    request = json.loads((directory / "request.json").read_text())
    _die_with(request["parent"])
    result: dict[str, object]
    try:
        result = serve(directory, runtime=request["runtime"], threads=request["threads"], plan=Plan(**request["plan"]))
    except InfeasibleError as error:
        result = {"reason": error.reason, "rung": error.rung}
    (directory / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
