"""Peak memory of a served model, and whether it fits into the CPU's cache."""

from __future__ import annotations

from pathlib import Path

from ..runtime import Arrays
from .serve_once import serve_once

RUNS = 5
"""Inferences before the peak is read: some runtimes reserve memory only in the first few."""


def peak_memory(
    runtime: str, artefact: bytes, inputs: Arrays, *, threads: int = 1, timeout_s: float | None = None
) -> int | None:
    """Return the peak memory in bytes of a process that loads a runtime, builds a model and runs it five times.

    The interpreter and the runtime's libraries count, as in any process that serves. GPU memory does not: this is the
    host's memory (``VmHWM``). None if the system does not report it.

    Raises:
        InfeasibleError: the runtime refuses the model, crashes, or takes too long.

    """
    return serve_once(runtime, artefact, [inputs] * RUNS, threads=threads, timeout_s=timeout_s).peak_bytes


CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def last_level_cache(caches: Path = CACHES) -> int | None:
    """Return the size in bytes of the CPU's largest cache; None if the system does not report it."""
    kilobytes = [path.read_text().strip().removesuffix("K") for path in caches.glob("index*/size")]
    return max((int(size) * 1024 for size in kilobytes if size.isdigit()), default=None)


def crowds_cache(model_bytes: int, cache_bytes: int | None) -> bool:
    """Return whether a model's weights fit into a cache only if other processes leave most of it free.

    Such a model runs from the cache at one moment and from memory at the next; ``bench/techniques.py`` measures one of
    14 MB a dozen times.

    >>> crowds_cache(14_000_000, 32 << 20), crowds_cache(4_000_000, 32 << 20), crowds_cache(57_000_000, 32 << 20)
    (True, False, False)
    """
    return cache_bytes is not None and cache_bytes // 4 <= model_bytes <= cache_bytes
