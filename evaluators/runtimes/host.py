"""What is said of the machine with every number."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path


def describe_host() -> Mapping[str, str]:
    """Return the interpreter, the system and the processor."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": str(os.cpu_count()),
    }


def processor() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
