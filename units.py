"""Quantities with a unit, such as 5ms, 4MB and 30m: parsing and printing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from .errors import UsageError

Words = str | float
"""A quantity with its unit, as on the command line; or, from Python, a number in the unit of the field of `Options`."""


_LATENCY = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}


_DURATION = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


_SIZE = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}


_ENERGY = {"uJ": 1e-3, "µJ": 1e-3, "mJ": 1.0, "J": 1e3}


def parse_latency(text: Words) -> float:
    """Return a latency in milliseconds; in Python it may be a number of them.

    >>> parse_latency("5ms"), parse_latency("800us"), parse_latency("0.02s"), parse_latency(5)
    (5.0, 0.8, 20.0, 5.0)
    """
    milliseconds = _quantity(text, _LATENCY)
    if milliseconds is None:
        raise UsageError(
            f"--target-latency must be a positive number with a unit (us, ms or s), such as 5ms; got {text!r}."
        )
    return round(milliseconds, 9)


def parse_duration(text: Words, option: str) -> float:
    """Return a duration in seconds; in Python it may be a number of them.

    >>> parse_duration("90s", "--time-budget"), parse_duration("1.5h", "--time-budget")
    (90.0, 5400.0)
    """
    seconds = _quantity(text, _DURATION)
    if seconds is None:
        raise UsageError(f"{option} must be a positive number with a unit (s, m or h), such as 10m; got {text!r}.")
    return seconds


def parse_size(text: Words, option: str) -> float:
    """Return a size in bytes; in Python it may be a number of them.

    >>> parse_size("4MB", "--max-size"), parse_size("512 KiB", "--max-size")
    (4000000.0, 524288.0)
    """
    size = _quantity(text, _SIZE)
    if size is None:
        raise UsageError(
            f"{option} must be a positive number with a unit (B, kB, MB, GB, KiB, MiB or GiB), such as 4MB; "
            f"got {text!r}."
        )
    return size


def parse_energy(text: Words) -> float:
    """Return an energy in millijoules; in Python it may be a number of them.

    >>> parse_energy("5mJ"), parse_energy("0.5J")
    (5.0, 500.0)
    """
    energy = _quantity(text, _ENERGY)
    if energy is None:
        raise UsageError(
            f"--max-energy must be a positive number with a unit (uJ, mJ or J), such as 5mJ; got {text!r}."
        )
    return energy


def _quantity(text: Words, units: Mapping[str, float]) -> float | None:
    if not isinstance(text, str):
        return float(text) if is_a(text, float) and text > 0 else None
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-zA-Zµ]+)\s*", text)
    if match is None or match[2] not in units or float(match[1]) <= 0:
        return None
    return float(match[1]) * units[match[2]]


def format_quantity(name: str, value: float) -> str:
    """Return a cost in words.

    >>> format_quantity("size", 4_200_000), format_quantity("size", 900), format_quantity("energy", 5.0)
    ('4.2 MB', '0.9 kB', '5 mJ')
    """
    if name in ("size", "memory"):
        return f"{value / 1e6:.5g} MB" if value >= 1e6 else f"{value / 1e3:.5g} kB"
    return f"{value:.4g} {'ms' if name == 'latency' else 'mJ'}"


def is_a(value: object, kind: Any) -> bool:
    """Return whether a value is of a type as Python's annotations mean it; a truth value is no number here.

    >>> is_a(2, float), is_a(True, int), is_a(float("nan"), float), is_a(("cpu",), tuple[str, ...])
    (True, False, False, True)
    """
    if kind in (int, float):
        of_kind = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return of_kind and math.isfinite(value)  # type: ignore[arg-type]
    if kind == tuple[str, ...]:
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    return isinstance(value, kind)
