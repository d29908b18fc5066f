"""Joules come from a counter or not at all. The counters of these tests are files as the kernel writes them."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from autocompress.errors import UsageError
from autocompress.evaluators.meters import energy
from autocompress.evaluators.meters.energy import Rapl, counter_of, sources, spend
from autocompress.evaluators.meters.latency import ProcessMeter
from autocompress.evaluators.tensorrt.driver import Gpu

from ..models import linear

RANGE_UJ = 262_143_328_850
Zones = dict[str, tuple[str, int]]
ZONES: Zones = {
    "intel-rapl:0": ("package-0", 5_000_000),
    "intel-rapl:0:0": ("core", 3_000_000),
    "intel-rapl:0:1": ("dram", 1_000_000),
    "intel-rapl:1": ("package-1", 7_000_000),
    "intel-rapl:2": ("psys", 90_000_000),
    "intel-rapl-mmio:0": ("package-0", 5_000_000),
}


@pytest.fixture
def count(tmp_path: Path) -> Callable[[str, int], None]:
    """Return a function that sets a zone's counter, in microjoules; all zones are there."""

    def put(zone: str, microjoules: int) -> None:
        (tmp_path / zone / "energy_uj").write_text(f"{microjoules}\n")

    for zone, (name, microjoules) in ZONES.items():
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        put(zone, microjoules)
    return put


def test_packages_and_their_memory_are_added(tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """Cores are part of their package, and the whole platform is not the processor: neither is counted again."""
    joules = Rapl(tmp_path).start()
    for zone, (_, microjoules) in ZONES.items():
        count(zone, microjoules + 2_000_000)
    assert joules() == pytest.approx(3 * 2)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """What is left to its end and what it has since are both counted."""
    count("intel-rapl:0", RANGE_UJ - 1_000_000)
    joules = Rapl(tmp_path).start()
    count("intel-rapl:0", 500_000)
    assert joules() == pytest.approx(1.5)


def test_no_counter_is_no_number(tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """A machine without counters, or with ones that may not be read, is an error and not a zero."""
    with pytest.raises(OSError, match="no RAPL counter"):
        Rapl(tmp_path / "nowhere")
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    with pytest.raises(OSError, match="energy_uj"):
        Rapl(tmp_path)


class NvmlError(Exception):
    """What NVML raises."""


def nvml(*, counts: bool) -> ModuleType:
    """Return what stands for pynvml: one GPU, whose counter rises by 1.5 J at each reading, in millijoules."""
    module = ModuleType("pynvml")
    readings = itertools.count(7_000, 1_500)

    def handle(identity: str) -> str:
        return {"GPU-8d5f": "the GPU"}[identity]

    def total(gpu: str) -> int:
        assert gpu == "the GPU"
        if not counts:
            raise NvmlError("Not Supported")
        return next(readings)

    vars(module).update(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    return module


def test_a_gpu_is_counted_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that serves, in joules; one without a counter is an error and not a zero."""
    gpu = Gpu(name="a GPU", identity="8d5f", capability="9.0", driver="13.0")
    monkeypatch.setattr(energy, "first_gpu", lambda: gpu)
    monkeypatch.setitem(sys.modules, "pynvml", nvml(counts=True))
    counter = counter_of("gpu")
    assert (counter.source, counter.start()()) == ("nvml", 1.5)
    monkeypatch.setitem(sys.modules, "pynvml", nvml(counts=False))
    with pytest.raises(UsageError, match=r"GPU; .* leave --energy out"):
        counter_of("gpu")


def test_energy_is_of_one_inference(tmp_path: Path, count: Callable[[str, int], None]) -> None:
    """The counter's rise is shared among the runs that made it."""
    spent = ZONES["intel-rapl:0"][1]

    def infer() -> None:
        nonlocal spent
        spent += 250_000
        count("intel-rapl:0", spent)

    found = spend(infer, Rapl(tmp_path), least_s=0.0, least_runs=40)
    assert found.joules == pytest.approx(0.25)
    assert (found.source, found.runs) == ("rapl", 40)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_machine_without_counters_is_told_so(device: str) -> None:
    """In one sentence, with the way out."""
    if device in sources():
        assert counter_of(device).start()() >= 0
        return
    with pytest.raises(
        UsageError, match=rf"joules of its {device.upper()}; this machine has n.*: leave --energy out\.$"
    ):
        counter_of(device)


WATT = """
import time
from autocompress.evaluators.meters import energy

class Watt:
    source = "rapl"

    def start(self):
        began = time.perf_counter()
        return lambda: time.perf_counter() - began

energy.COUNTERS = (("cpu", Watt),)
"""


def test_a_meter_counts_the_millijoules_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the fresh process that serves a model, on a device of one watt: a larger model takes more, and no second."""
    (tmp_path / "sitecustomize.py").write_text(WATT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    found = []
    for width in (4, 2048):
        model = linear(width=width)
        meter = ProcessMeter(baseline=model, runtime="onnxruntime", inputs=[np.ones((1, width), np.float32)])
        found.append(meter.energy(model))
    small, large = found
    assert small is not None
    assert large is not None
    assert 0 < small < large < 1000
