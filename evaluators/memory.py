"""How much memory a served model needs."""

from __future__ import annotations

from .runtimes import Arrays
from .serve_once import serve_once

RUNS = 5
"""Inferences before the peak is read: some runtimes reserve memory only in the first few."""


def peak_memory(
    runtime: str, artefact: bytes, inputs: Arrays, *, threads: int = 1, timeout_s: float | None = None
) -> int | None:
    """Return the most bytes that a process has which loads only a runtime, builds a model and runs it five times.

    The interpreter and the runtime's libraries are part of it, as they are of any process that serves. Memory of a GPU
    is not: it is the host's that is counted (``VmHWM``). None where the system does not tell.

    Raises:
        InfeasibleError: the runtime refuses the model, crashes, or takes too long.

    """
    return serve_once(runtime, artefact, [inputs] * RUNS, threads=threads, timeout_s=timeout_s).peak_bytes
