"""Engines and timings that earlier builds have left, in ``~/.cache/autocompress/tensorrt``."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .build import Built


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
    if plan.is_file():
        return plan.read_bytes()
    built = build(timings.read_bytes() if timings.is_file() else b"")
    write(plan, built.plan)
    if built.timing_cache:
        write(timings, built.timing_cache)
    return built.plan


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
