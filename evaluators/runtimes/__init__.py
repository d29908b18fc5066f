"""Runtimes: one file each. A runtime builds an engine from a model file and infers; the clock is outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...spaces.capabilities import Capabilities

Arrays = Sequence[NDArray[np.generic]]

RUNTIMES = ("onnxruntime", "fake")
"""Names of the runtimes; each is a module of this package with a `RUNTIME`."""


class Engine(Protocol):
    """A built model, ready to run."""

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model once; one array an input in the model's order, batch first."""
        ...


class Runtime(Protocol):
    """Something that serves exported models."""

    name: str
    capabilities: Capabilities

    def flavour(self, canonical: bytes) -> bytes:
        """Rewrite the canonical ONNX file (INT8, zero point 0) into the layout that this runtime fuses."""
        ...

    def build(self, artefact: bytes, *, threads: int) -> AbstractContextManager[Engine]:
        """Build an engine from a flavoured ONNX file.

        Raises:
            InfeasibleError: the runtime refuses the model.
        """
        ...

    def profile(self, artefact: bytes, inputs: Arrays) -> Mapping[str, float]:
        """Return milliseconds of each node, by its name or its output's; empty where the runtime cannot tell."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Return versions and device, to be stored with every number."""
        ...


def load(name: str) -> Runtime:
    """Return a runtime by name.

    Raises:
        UsageError: no such runtime.
        MissingRuntimeError: its package is not installed.
    """
    if name not in RUNTIMES:
        offered = ", ".join(runtime for runtime in RUNTIMES if runtime != "fake")
        raise UsageError(f"--runtime must be one of: {offered}; got {name!r}.")
    runtime: Runtime = import_module(f".{name}", __package__).RUNTIME
    return runtime
