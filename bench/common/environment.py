"""The environment that a figure was taken in."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

from autocompress.evaluators import runtimes
from autocompress.evaluators.runtime import Runtime

INSTRUCTIONS = {"avx512_vnni": "AVX-512 VNNI", "avx512f": "AVX-512", "avx_vnni": "AVX2 VNNI", "avx2": "AVX2"}
"""What decides how fast INT8 is, by its name in ``/proc/cpuinfo``; the fastest first."""


def describe(runtime: Runtime | None = None) -> str:
    """Return one line: device, cores, load, and the versions that matter."""
    facts = (runtime or runtimes.load("onnxruntime")).describe()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "optuna", "ray"))
    load = os.getloadavg()[0]
    return f"{facts['cpu']}, {facts['cores']} cores, load {load:.2f} before; Python {facts['python']}, {packages}"


def instructions() -> str:
    """Return the widest vector instructions of this CPU that INT8 profits from."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    return next((name for flag, name in INSTRUCTIONS.items() if flag in flags), "no AVX2")
