"""Engines and timings that earlier builds have left, in ``~/.cache/autocompress/tensorrt``."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

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
    write(plan, built.plan)
    if built.timing_cache:
        write(timings, built.timing_cache)
    for old in sorted(folder().glob("*.plan"), key=_last_used)[:-KEPT]:
        old.unlink(missing_ok=True)
    return built.plan


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process was faster
        return 0.0


def write(path: Path, content: bytes) -> None:
    """Write a file at once: who reads it meanwhile sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(content)
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
