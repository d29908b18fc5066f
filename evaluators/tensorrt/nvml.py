"""What a GPU's times depend on: its clocks and temperature, what slows it down, and who else computes on it.

It is read before and after, and not during: reading it disturbs what is timed (NVIDIA/TensorRT#3090).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

UNAVAILABLE = "unavailable"


def conditions(identity: str, moment: str) -> Mapping[str, str]:
    """Return what NVML reports about a GPU.

    Args:
        identity: the GPU's UUID.
        moment: ``before`` or ``after``; a suffix of the keys.

    """
    try:
        import pynvml
    except ImportError:
        return {f"gpu_state_{moment}": UNAVAILABLE}
    try:
        pynvml.nvmlInit()
        try:
            read = _read(pynvml, _handle(pynvml, identity))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return {f"gpu_state_{moment}": UNAVAILABLE}
    return {f"{key}_{moment}": value for key, value in read.items()}


def _handle(nvml: Any, identity: str) -> Any:
    """Return a GPU, or the part of one that has an identity of its own."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{identity}")


def _read(nvml: Any, gpu: Any) -> dict[str, str]:
    others = [process for process in nvml.nvmlDeviceGetComputeRunningProcesses(gpu) if process.pid != os.getpid()]
    return {
        "gpu_clock_mhz": str(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM)),
        "gpu_memory_clock_mhz": str(nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM)),
        "gpu_temperature_c": str(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)),
        "gpu_slowed_by": _reasons(nvml, nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)),
        "gpu_other_processes": str(len(others)),
    }


def _reasons(nvml: Any, mask: int) -> str:
    """Return by name why the clocks are not higher."""
    prefix = "nvmlClocksEventReason"
    named = {name.removeprefix(prefix): getattr(nvml, name) for name in dir(nvml) if name.startswith(prefix)}
    single = {name: bit for name, bit in named.items() if bit.bit_count() == 1}
    return ", ".join(sorted(name for name, bit in single.items() if mask & bit)) or "nothing"
