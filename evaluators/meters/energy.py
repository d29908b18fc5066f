"""Energy of an inference, read from a hardware counter; never an estimate.

GPUs are read through NVML, CPUs through RAPL. Both count the whole device, including idle power and other programs.

RAPL is read directly, because it is one file of digits for each CPU package. The maintained library, zeus, would add a
polling process, pydantic, tyro, httpx and AMD's driver library.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...errors import UsageError
from ..tensorrt.driver import first_gpu

POWERCAP = Path("/sys/class/powercap")

Joules = Callable[[], float]
"""Returns the joules spent since it was made."""


@dataclass(frozen=True, kw_only=True)
class Energy:
    """The energy of one inference.

    Attributes:
        joules: for one inference: the counter's increase divided by the runs.
        source: the counter, ``nvml`` or ``rapl``.
        runs: number of inferences.
        seconds: duration of all runs.

    """

    joules: float
    source: str
    runs: int
    seconds: float


class Counter(Protocol):
    """Something that counts joules."""

    source: str

    def start(self) -> Joules:
        """Return a function that returns the joules spent since this call."""
        ...


class Rapl:
    """The counters of the CPU packages, and of their memory if it has one, in Linux's ``powercap``.

    Args:
        root: the folder of the counters.

    Raises:
        OSError: there is no counter, or it is not readable (on most machines only root may read it).

    """

    source = "rapl"

    def __init__(self, root: Path = POWERCAP) -> None:
        zones = [zone for zone in sorted(root.glob("intel-rapl:*")) if _counts(zone)]
        if not zones:
            raise FileNotFoundError(f"no RAPL counter in {root}")
        self._files = [zone / "energy_uj" for zone in zones]
        self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
        self._read()

    def _read(self) -> list[int]:
        return [int(file.read_text()) for file in self._files]

    def start(self) -> Joules:
        """See `Counter.start`; valid until a counter wraps around twice, which takes minutes at full power."""
        before = self._read()

        def spent() -> float:
            risen = zip(self._read(), before, self._ranges, strict=True)
            return sum(now - then if now >= then else now - then + most for now, then, most in risen) / 1e6

        return spent


def _counts(zone: Path) -> bool:
    """Whether to add a zone: cores and graphics are part of their package, memory is not."""
    name = (zone / "name").read_text().strip()
    return name.startswith("package") or name == "dram"


class Nvml:
    """The counter of the GPU that serves (Volta or newer).

    Raises:
        ImportError: pynvml is not installed.
        OSError: there is no driver, no GPU, or the GPU has no counter, like a MIG instance.

    """

    source = "nvml"

    def __init__(self) -> None:
        import pynvml  # noqa: PLC0415  # optional dependency

        self._nvml: Any = pynvml
        identity = first_gpu().identity
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
            self._read()
        except pynvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    def _read(self) -> float:
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3

    def start(self) -> Joules:
        """See `Counter.start`."""
        before = self._read()
        return lambda: self._read() - before


COUNTERS: Sequence[tuple[str, Callable[[], Counter]]] = (("cpu", Rapl), ("gpu", Nvml))


def sources() -> dict[str, str]:
    """Return the counter of each device that has one: ``{"cpu": "rapl"}``."""
    found = {}
    for device, make in COUNTERS:
        try:
            found[device] = make().source
        except (ImportError, OSError):
            continue
    return found


def counter_of(device: str, option: str = "--energy") -> Counter:
    """Return the counter of a device, ``cpu`` or ``gpu``.

    Args:
        device: the device to measure.
        option: the option that asked for energy, for the message.

    Raises:
        UsageError: it has none.

    """
    make = dict(COUNTERS)[device]
    try:
        return make()
    except (ImportError, OSError) as error:
        if not sources():
            lacks = "neither NVML nor a readable RAPL counter"
        else:
            lacks = f"no {'readable RAPL counter' if device == 'cpu' else 'NVML'} ({error})"
        raise UsageError(
            f"{option} needs a counter of the joules of its {device.upper()}; this machine has {lacks}: "
            f"leave {option} out."
        ) from error


def spend(infer: Callable[[], object], counter: Counter, *, least_s: float = 3.0, least_runs: int = 20) -> Energy:
    """Run a model for some seconds, and return the energy of one run.

    Args:
        infer: runs the model once and waits for the result.
        counter: counter of the device.
        least_s: minimum duration in seconds; counters update every millisecond at best, NVML's every 100 ms.
        least_runs: minimum number of runs.

    """
    joules, start, runs = counter.start(), time.perf_counter(), 0
    while runs < least_runs or time.perf_counter() - start < least_s:
        infer()
        runs += 1
    return Energy(joules=joules() / runs, source=counter.source, runs=runs, seconds=time.perf_counter() - start)
