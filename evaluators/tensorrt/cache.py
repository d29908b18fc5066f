"""Engines and timings that earlier builds have left, in ``~/.cache/autocompress/tensorrt``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...files import write_atomically
from .build import Built

KEPT = 64
"""Engines that are kept, those that were used last: a search builds hundreds."""


def folder() -> Path:
    """Return where they lie; ``XDG_CACHE_HOME`` replaces ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "autocompress", "tensorrt")


def cached(key: str, place: str, build: Callable[[bytes], Built]) -> bytes:
    """Return an engine's plan: the one that was kept, or a new one.

    Args:
        key: tells the engine from all others.
        place: version and GPU, for which timings are valid.
        build: makes it, with the help of earlier timings.

    """
    plan = folder() / f"{key}.plan"
    timings = folder() / f"{hashlib.sha256(place.encode()).hexdigest()}.timings"
    with suppress(FileNotFoundError):
        content = plan.read_bytes()
        os.utime(plan)
        return content
    built = build(timings.read_bytes() if timings.is_file() else b"")
    write_atomically(plan, built.plan)
    if built.timing_cache:
        write_atomically(timings, built.timing_cache)
    for old in sorted(folder().glob("*.plan"), key=_last_used)[:-KEPT]:
        old.unlink(missing_ok=True)
    return built.plan


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process was faster
        return 0.0
