"""The timing process: its clocks, blocks and windows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from autocompress.evaluators.measurement import CONTENDED
from autocompress.evaluators.meters.latency import Plan, settled
from autocompress.evaluators.meters.timing_process import (
    LONGEST_BLOCK,
    Clock,
    blocks_of,
    serve,
    time_window,
    time_windows,
)
from autocompress.evaluators.runtime import Arrays

SHORT = Plan(min_windows=2, max_windows=3, gap_s=0.0, min_runs=10, min_window_s=0.05, tolerance=0.1, warmup=2)


def test_windows_stop_when_they_agree() -> None:
    """Not before the least number, not after the greatest, and in between by the interval between windows."""
    plan = replace(SHORT, min_windows=3, max_windows=5, tolerance=0.04)
    assert not settled([0.5, 0.5], plan)
    assert settled([0.5, 0.501, 0.499], plan)
    assert not settled([0.5, 0.6, 0.4], plan)
    assert settled([0.5, 0.6, 0.4, 0.7, 0.3], plan)


class Model:
    """Costs so many nanoseconds a run, and a thousand when another ran before it."""

    now = 0
    order: ClassVar[list[str]] = []

    def __init__(self, name: str, cost: int) -> None:
        self.name, self.cost = name, cost

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run."""
        Model.now += self.cost if Model.order[-1:] == [self.name] else 1000
        Model.order.append(self.name)
        return []


def test_first_run_after_a_switch_is_not_counted() -> None:
    """Runs that meet cold caches are left out, and the models take turns in blocks of five."""
    clock = Clock("cpu", lambda: Model.now)
    watches = [clock.stopwatch(model, []) for model in (Model("b", 4), Model("c", 2))]
    window = time_window(watches, replace(SHORT, min_runs=10, min_window_s=0.0))
    assert window.times_ns == ((4,) * 10, (2,) * 10)
    assert window.estimate(50) == 0.5
    assert "".join(Model.order) == ("b" * 6 + "c" * 6) * 2


def test_fast_models_have_longer_turns() -> None:
    """A turn lasts so long for each model, within bounds; a slow one has the plan's least number of runs."""
    plan = replace(SHORT, block=5, block_s=0.02)
    assert blocks_of([[10**7], [10**6], [20_000], [1]], plan) == [5, 20, 1000, LONGEST_BLOCK]


def test_what_a_reading_costs_is_no_part_of_a_run() -> None:
    """A model of a tenth of another's time has a ratio of a tenth, though reading the clock takes half as long."""

    class Slow:
        now = 0

        def __call__(self) -> int:
            Slow.now += 600  # of which the reading is in the middle: half before, half after
            return Slow.now - 300

    class Fast(Model):
        def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
            Slow.now += self.cost
            return []

    clock = Clock("cpu", Slow())
    assert clock.cost_ns() == 600
    watches = [clock.stopwatch(model, []) for model in (Fast("b", 12_000), Fast("c", 1200))]
    window = time_window(watches, replace(SHORT, min_window_s=0.0))
    assert window.estimate(50) == pytest.approx(0.1)


@pytest.mark.parametrize(("shared", "gap"), [(False, "held"), (True, "free")])
def test_the_device_is_given_back_between_windows_where_others_may_use_it(
    shared: bool, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every run is timed alone; in the gaps a shared plan holds nothing."""
    held, seen = [False], set[tuple[str, str]]()

    def look(when: str) -> None:
        seen.add((when, "held" if held[0] else "free"))

    @contextmanager
    def alone() -> Iterator[None]:
        held[0] = True
        yield
        held[0] = False

    def watch(runs: int) -> list[int]:
        look("run")
        return [1000] * runs

    monkeypatch.setattr(time, "sleep", lambda seconds: look("gap"))
    plan = replace(SHORT, min_windows=3, max_windows=3, min_window_s=0.0, shared=shared)
    time_windows([watch], plan, alone=alone)
    assert seen == {("run", "held"), ("gap", gap)}
    assert not held[0]


@pytest.mark.parametrize(
    ("threads", "devices", "own", "name"),
    [
        (1, {"cpu"}, False, "cpu"),
        (2, {"cpu"}, False, "wall"),
        (1, {"gpu"}, False, "wall"),
        (1, {"cpu", "gpu"}, False, "wall"),
        (1, {"gpu"}, True, "device"),
    ],
)
def test_the_clock_sees_what_the_device_does(threads: int, devices: set[str], own: bool, name: str) -> None:
    """The process's own time is for one thread of a processor; waiting for a GPU uses none of it."""
    clock = Clock.of(threads, devices, own=own)
    assert clock.name == name
    assert (clock.now is time.process_time_ns) == (name == "cpu")


ASLEEP = """
import time
from contextlib import contextmanager
from autocompress.evaluators.runtimes import Runtime
from autocompress.spaces.capabilities import Capabilities

class Engine:
    def __init__(self, seconds):
        self.seconds = seconds

    def infer(self, inputs):
        time.sleep(self.seconds)  # as the processor does while a GPU computes
        return inputs

class Asleep:
    name = "asleep"
    capabilities = Capabilities(runtime="asleep", device="gpu")

    @contextmanager
    def build(self, artefact, *, threads):
        yield Engine(float(artefact))

    def describe(self):
        return {}

VARIANTS = {"": Asleep()}
"""


def test_a_gpu_that_is_waited_for_asleep_is_timed(tmp_path: Path) -> None:
    """A model that keeps a GPU twice as long has a ratio of two, by wall time, and no window is disturbed."""
    (tmp_path / "asleep.py").write_text(ASLEEP)
    np.savez(tmp_path / "inputs.npz", np.ones(1))
    for i, seconds in enumerate((b"0.02", b"0.04")):
        (tmp_path / f"model{i}").write_bytes(seconds)
    plan = replace(SHORT, min_runs=5, min_window_s=0.01)
    names = [str(tmp_path / "asleep.py")] * 2
    found = serve(tmp_path, {"threads": 1, "plan": asdict(plan), "runtimes": names, "references_ms": [20.0]})
    assert found["clock"] == "wall"
    (baseline, candidate), _ = found["windows"][0]  # type: ignore[index]
    assert 1.6 < statistics.median(candidate) / statistics.median(baseline) < 2.4


def test_window_lasts_as_long_as_the_plan_says() -> None:
    """Fast models run more often than the least number."""
    watch = Clock.of(1).stopwatch(Model("fast", 1), [])
    (window,), _ = time_windows([watch], replace(SHORT, min_windows=1, max_windows=1, min_window_s=0.02))
    assert len(window.times_ns[0]) > SHORT.min_runs


def test_a_device_is_timed_by_its_own_clock() -> None:
    """An engine that tells its device's times is asked for them, and the host's clocks are not read."""

    class Device(Model):
        def device_ns(self, inputs: Arrays, runs: int) -> list[int]:
            return [7] * runs

        def conditions(self) -> Mapping[str, str]:
            return {"mode": "graph"}

    assert Clock("device", lambda: 1 // 0).stopwatch(Device("d", 1), [])(3) == [7, 7, 7]


def test_disturbed_windows_are_measured_again() -> None:
    """A process that was kept from the processor times again, though not for ever."""

    def sleepy(runs: int) -> list[int]:
        time.sleep(0.01)
        return [1] * runs

    windows, again = time_windows([sleepy], replace(SHORT, min_windows=2, max_windows=4, min_window_s=0.02))
    assert again == 2
    assert len(windows) == 2
    assert all(window.contention > CONTENDED for window in windows)
