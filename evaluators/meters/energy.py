"""Joules of an inference, from a counter of the machine; never an estimate.

A GPU's counter is NVML's, a processor's is RAPL's. Both count the whole device, idle power and other programs included.

RAPL is read here and not through a library: the kept one, zeus, brings a process that polls the counters for their
overflow, pydantic, tyro, httpx and AMD's driver library, for what is one file of digits a package of cores.
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
    """What one inference costs.

    Attributes:
        joules: of one inference: what the counter rose by, over the runs.
        source: the counter, ``nvml`` or ``rapl``.
        runs: inferences that were counted.
        seconds: that they took together.

    """

    joules: float
    source: str
    runs: int
    seconds: float


class Counter(Protocol):
    """Something that counts joules."""

    source: str

    def start(self) -> Joules:
        """Return a function that tells the joules spent since this call."""
        ...


class Rapl:
    """The counters of the processor's packages, and of their memory where that has one: ``powercap`` of Linux.

    Args:
        root: the folder of the counters.

    Raises:
        OSError: there is none, or it may not be read (it is root's alone on most machines).

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
        """See `Counter.start`; right while no counter wraps around twice, which takes minutes at full power."""
        before = self._read()

        def spent() -> float:
            risen = zip(self._read(), before, self._ranges, strict=True)
            return sum(now - then if now >= then else now - then + most for now, then, most in risen) / 1e6

        return spent


def _counts(zone: Path) -> bool:
    """Whether a zone is one to add: cores and graphics are part of their package, memory is not."""
    name = (zone / "name").read_text().strip()
    return name.startswith("package") or name == "dram"


class Nvml:
    """The counter of the GPU on which everything runs (Volta or newer).

    Raises:
        ImportError: pynvml is not installed.
        OSError: no driver, no GPU, or one without a counter, such as a part of one.

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
        device: where the joules are spent.
        option: what the user asked for them with.

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
    """Run a model for some seconds, and return what one run costs.

    Args:
        infer: runs it once, to its end.
        counter: of the device it runs on.
        least_s: seconds to run; counters tick a thousand times a second at best, NVML's every tenth of one.
        least_runs: runs at the least.

    """
    joules, start, runs = counter.start(), time.perf_counter(), 0
    while runs < least_runs or time.perf_counter() - start < least_s:
        infer()
        runs += 1
    return Energy(joules=joules() / runs, source=counter.source, runs=runs, seconds=time.perf_counter() - start)
