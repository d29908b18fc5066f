"""The measuring protocol. Only ratios are asserted: absolute times are a property of the machine."""

from __future__ import annotations

import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.errors import InfeasibleError
from autocompress.evaluators.device_lock import exclusive, quiet
from autocompress.evaluators.measurement import Latency
from autocompress.evaluators.meters.bridge import Bridge
from autocompress.evaluators.meters.latency import CAREFUL, SEARCH, FakeMeter, Plan, ProcessMeter, meter_for

T = TypeVar("T")

SHORT = Plan(min_windows=2, max_windows=3, gap_s=0.0, min_runs=10, min_window_s=0.05, tolerance=0.1, warmup=2)
ENDLESS = replace(SHORT, min_windows=10**6, max_windows=10**6)
INPUTS = [np.ones((1, 256), dtype=np.float32)]


@cache
def chain(layers: int) -> bytes:
    """Return an ONNX file of so many products with one 256 × 256 matrix."""
    names = ["x", *(f"h{i}" for i in range(1, layers)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], "w"], [names[i + 1]]) for i in range(layers)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 256]) for name in "xy")
    weight = numpy_helper.from_array(np.full((256, 256), 1 / 256, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "chain", [x], [y], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()


METER = ProcessMeter(baseline=chain(8), runtime="onnxruntime", inputs=INPUTS, baseline_ms=1.0)


class Running(NamedTuple):
    """A measurement under way, and the process that times it."""

    result: Future[Latency]
    child: psutil.Process


def until(ask: Callable[[], T], *, seconds: float = 240.0) -> T:
    """Return the first true answer."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return answer


def timing_child(parent: psutil.Process) -> psutil.Process:
    """Return the timing process below a process, once it has loaded the runtime."""

    def ready() -> list[psutil.Process]:
        children = [
            child for child in parent.children() if "autocompress.evaluators.meters.timing_process" in child.cmdline()
        ]
        return [child for child in children if "onnxruntime" in mapped(child)]

    return until(ready)[0]


def mapped(process: psutil.Process) -> str:
    """Return the paths of the libraries that a process has loaded."""
    return " ".join(region.path for region in process.memory_maps())


@pytest.fixture
def running() -> Iterator[Running]:
    """Start a measurement that would never end."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(METER.measure, chain(8), ENDLESS)
        child = timing_child(psutil.Process())
        yield Running(result, child)
        if child.is_running():
            child.kill()


@pytest.mark.parametrize("threads", [1, 2])
def test_model_is_as_fast_as_itself(threads: int) -> None:
    """The ratio of a model to itself is about one, or others are reported; what it was measured with is kept."""
    plan = replace(SHORT, min_runs=10 if threads == 1 else 200)  # others disturb wall time more than CPU time
    latency = replace(METER, threads=threads).measure(chain(8), plan)
    assert 0.7 < latency.ratio < 1.4 or latency.contended
    assert latency.median_ms == latency.ratio * 1.0
    assert 2 <= len(latency.windows) <= 3
    assert all(min(len(w.baseline_ns), len(w.candidate_ns)) >= 10 and w.contention > 0 for w in latency.windows)
    assert (latency.clock, latency.threads) == (("cpu", 1) if threads == 1 else ("wall", 2))
    assert {"onnxruntime", "cpu", "load_before", "load_after", "involuntary_switches"} <= set(latency.environment)


def test_four_times_the_work_is_slower() -> None:
    """The ratio orders models by their work."""
    assert METER.measure(chain(32), SHORT).ratio > 1.5


def test_fast_models_are_measured_by_several_processes() -> None:
    """A model under a few milliseconds gets the processes that a plan allows, a slower one a single process."""
    plan = replace(SHORT, processes=2)
    fast = METER.measure(chain(2), plan)
    slow = replace(METER, baseline_ms=1000.0).measure(chain(2), plan)
    assert (fast.processes, slow.processes) == (2, 1)
    assert len(fast.windows) >= 2 * SHORT.min_windows > len(slow.windows) - 1


def test_a_fast_candidate_is_timed_against_a_bridge() -> None:
    """The nearest reference is its own, and its ratio to the baseline is the bridge's times that to the bridge."""
    long = replace(METER, baseline=chain(256))
    baseline_ms = long.calibrate(SHORT).median_ms
    bridge = Bridge(artefact=chain(8), ratio=1 / 32, spread=0.1)
    meter = replace(long, baseline_ms=baseline_ms, bridges=(bridge,))
    fast, slow = meter.measure(chain(8), SHORT), meter.measure(chain(192), SHORT)
    assert {window.bridge for window in fast.windows} == {1 / 32}
    assert {window.bridge for window in slow.windows} == {1.0}
    assert 0.7 < fast.ratio * 32 < 1.4 or fast.contended
    assert (fast.bridge_spread, slow.bridge_spread) == (0.1, 0.0)
    assert fast.half_width > 0.1 * fast.ratio


def test_calibration_has_its_spread() -> None:
    """The baseline alone gives milliseconds, between its fastest and its slowest window."""
    calibration = METER.calibrate(SHORT)
    assert 0 < calibration.low_ms <= calibration.median_ms <= calibration.high_ms
    medians = [statistics.median(window) / 1e6 for window in calibration.windows]
    assert (calibration.low_ms, calibration.high_ms) == pytest.approx((min(medians), max(medians)))
    assert "onnxruntime" in calibration.environment


def test_measuring_needs_a_calibrated_baseline() -> None:
    """Without it there are no milliseconds."""
    with pytest.raises(ValueError, match="baseline_ms must be calibrated"):
        replace(METER, baseline_ms=None).measure(chain(8), SHORT)


def test_two_meters_do_not_overlap() -> None:
    """One measurement at a time on a machine, from any process."""
    with ThreadPoolExecutor(2) as pool:
        latencies = list(pool.map(lambda _: METER.measure(chain(8), SHORT), range(2)))
    spans = sorted((latency.environment["started"], latency.environment["finished"]) for latency in latencies)
    assert spans[0][1] <= spans[1][0]


@pytest.mark.parametrize("crash", [signal.SIGSEGV, signal.SIGKILL])
def test_crash_is_infeasible(running: Running, crash: signal.Signals) -> None:
    """A runtime that kills its process costs one candidate, and the reason names the signal."""
    running.child.send_signal(crash)
    with pytest.raises(InfeasibleError, match=crash.name) as caught:
        running.result.result(timeout=240)
    assert caught.value.rung == "latency"


def test_timing_process_loads_neither_torch_nor_ray(running: Running) -> None:
    """Nothing but the runtime lives beside the model."""
    libraries = mapped(running.child)
    assert "onnxruntime" in libraries
    assert "torch" not in libraries
    assert "/ray/" not in libraries


def test_hang_is_infeasible() -> None:
    """A model that takes too long ends with its time."""
    with pytest.raises(InfeasibleError, match=r"not timed within 0\.5 s") as caught:
        METER.measure(chain(8), ENDLESS, timeout_s=0.5)
    assert caught.value.rung == "latency"


def test_refused_model_is_infeasible() -> None:
    """What the runtime cannot load ends at the rung of building."""
    with pytest.raises(InfeasibleError) as caught:
        METER.measure(b"garbage", SHORT)
    assert caught.value.rung == "build"


def test_failed_run_is_infeasible() -> None:
    """What loads and does not run ends at the rung of latency, with the runtime's words."""
    meter = replace(METER, inputs=[np.ones((1, 3), dtype=np.float32)])
    with pytest.raises(InfeasibleError, match=r"failed while the model was timed: .*imension") as caught:
        meter.measure(chain(8), SHORT)
    assert caught.value.rung == "latency"


def test_timing_process_dies_with_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed study leaves nobody on the processor, and the lock is free."""
    monkeypatch.setenv("AUTOCOMPRESS_LOCKS", str(tmp_path))
    code = (
        "from dataclasses import replace; import numpy as np, sys;"
        "from autocompress.evaluators.meters.latency import *;"
        "meter = ProcessMeter(baseline=sys.stdin.buffer.read(), runtime='onnxruntime', "
        "inputs=[np.ones((1, 256), dtype=np.float32)]);"
        "meter.calibrate(replace(CAREFUL, min_windows=10**6, max_windows=10**6))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        parent.stdin.write(chain(8))
        parent.stdin.close()
        child = timing_child(psutil.Process(parent.pid))
        parent.kill()
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert METER.measure(chain(8), SHORT).runs


@pytest.mark.parametrize("plan", [SEARCH, CAREFUL])
def test_plans_can_reach_their_interval(plan: Plan) -> None:
    """An interval needs two windows."""
    assert 2 <= plan.min_windows <= plan.max_windows


BUILDS = """
import time
from contextlib import contextmanager
from pathlib import Path
from autocompress.evaluators.runtimes import Runtime
from autocompress.spaces.capabilities import Capabilities

class Engine:
    def infer(self, inputs):
        return [sum(range(20_000))]

class Builds:
    name = __file__
    capabilities = Capabilities(runtime="builds")

    @contextmanager
    def build(self, artefact, *, threads):
        folder = Path(__file__).parent
        (folder / artefact.decode()).touch()
        while not (folder / "go").exists():
            time.sleep(0.02)
        yield Engine()

    def describe(self):
        return {}

VARIANTS = {"": Builds()}
"""


def test_the_device_is_free_and_trainers_work_while_a_model_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is built keeps no other measurement waiting; only its timing has the device to itself."""
    monkeypatch.setenv("AUTOCOMPRESS_LOCKS", str(tmp_path))
    path = tmp_path / "builds.py"
    path.write_text(BUILDS)
    meter = replace(METER, baseline=b"baseline", runtime=str(path))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(meter.measure, b"candidate", SHORT, timeout_s=240.0)
        until((tmp_path / "candidate").exists)
        with exclusive("cpu"):  # would wait for ever
            assert not (tmp_path / "baseline").exists()
            with quiet(patience_s=0.0) as alone:
                assert not alone  # it works on the floor, beside trainers
            (tmp_path / "go").touch()
            until((tmp_path / "baseline").exists)
            assert not result.done()
        assert result.result(timeout=240).environment["trainers_paused"] == "yes"


@pytest.mark.parametrize("percentile", [50.0, 90.0])
def test_percentile_is_what_counts(percentile: float) -> None:
    """The same percentile of both models' times, in ratio and in milliseconds."""
    meter = replace(METER, percentile=percentile)
    latency, calibration = meter.measure(chain(8), SHORT), meter.calibrate(SHORT)
    assert latency.percentile == percentile
    window = latency.windows[0]
    expected = np.percentile(window.candidate_ns, percentile) / np.percentile(window.baseline_ns, percentile)
    assert latency.ratios[0] == pytest.approx(expected)
    assert calibration.high_ms == pytest.approx(max(np.percentile(w, percentile) / 1e6 for w in calibration.windows))


def test_fake_meter_knows() -> None:
    """Known latencies, equal each time, with a finite and narrow interval."""
    meter = meter_for("fake", baseline=chain(8), inputs=INPUTS)
    latency = meter.measure(chain(4), SEARCH)
    assert latency == meter.measure(chain(4), SEARCH)
    assert latency.ratio == pytest.approx(0.5)
    assert 0 < latency.half_width < 0.01
    assert latency.median_ms == pytest.approx(meter.calibrate().median_ms / 2)
    assert math.isfinite(latency.high_ms)


def test_meter_for_a_real_runtime_measures() -> None:
    """Only the fake runtime is known without a clock."""
    assert isinstance(meter_for("fake", baseline=b"", inputs=[]), FakeMeter)
    meter = meter_for("onnxruntime", baseline=b"b", inputs=INPUTS, threads=2, baseline_ms=3.0)
    assert isinstance(meter, ProcessMeter)
    assert (meter.baseline, meter.runtime, meter.threads, meter.baseline_ms) == (b"b", "onnxruntime", 2, 3.0)
