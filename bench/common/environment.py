"""The environment that a figure was taken in."""

from __future__ import annotations

import os
from importlib.metadata import version

from autocompress.evaluators import runtimes
from autocompress.evaluators.runtime import Runtime


def describe(runtime: Runtime | None = None) -> str:
    """Return one line: device, cores, load, and the versions that matter."""
    facts = (runtime or runtimes.load("onnxruntime")).describe()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "optuna", "ray"))
    load = os.getloadavg()[0]
    return f"{facts['cpu']}, {facts['cores']} cores, load {load:.2f} before; Python {facts['python']}, {packages}"
