"""Engines and timings that earlier builds have left, in ``~/.cache/autocompress/tensorrt``."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...files import make_folder, write_atomically
from .build import Built

logger = logging.getLogger(__name__)

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
    if not _private(folder()):
        return build(b"").plan
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


def _private(place: Path) -> bool:
    """Return whether nobody but this user can have put engines into a folder, which is made where there is none.

    An engine is a program, and so is run only where it is known who made it.
    """
    make_folder(place.parent)
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.stat()
    private = found.st_uid == os.getuid() and not found.st_mode & 0o022
    if not private:
        logger.warning(
            "engines are kept only where nobody else can write, which others can in %r: delete it, or make it your own",
            str(place),
        )
    return private


def _last_used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process was faster
        return 0.0
