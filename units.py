"""Quantities with a unit, such as 5ms, 4MB and 30m: parsing and printing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from .errors import UsageError

Quantity = str | float
"""A quantity with its unit, such as ``"5ms"``; or, from Python, a number in the unit of the field of `Options`."""

_LATENCY = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_DURATION = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SIZE = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_ENERGY = {"uJ": 1e-3, "µJ": 1e-3, "mJ": 1.0, "J": 1e3}


def parse_latency(text: Quantity) -> float:
    """Return a latency in milliseconds.

    >>> parse_latency("5ms"), parse_latency("800us"), parse_latency("0.02s"), parse_latency(5)
    (5.0, 0.8, 20.0, 5.0)
    """
    return round(_parsed(text, _LATENCY, "--target-latency", "us, ms or s", "5ms"), 9)


def parse_duration(text: Quantity, option: str) -> float:
    """Return a duration in seconds.

    >>> parse_duration("90s", "--time-budget"), parse_duration("1.5h", "--time-budget")
    (90.0, 5400.0)
    """
    return _parsed(text, _DURATION, option, "s, m or h", "10m")


def parse_size(text: Quantity, option: str) -> float:
    """Return a size in bytes.

    >>> parse_size("4MB", "--max-size"), parse_size("512 KiB", "--max-size")
    (4000000.0, 524288.0)
    """
    return _parsed(text, _SIZE, option, "B, kB, MB, GB, KiB, MiB or GiB", "4MB")


def parse_energy(text: Quantity) -> float:
    """Return an energy in millijoules.

    >>> parse_energy("5mJ"), parse_energy("0.5J")
    (5.0, 500.0)
    """
    return _parsed(text, _ENERGY, "--max-energy", "uJ, mJ or J", "5mJ")


def _parsed(text: Quantity, units: Mapping[str, float], option: str, names: str, example: str) -> float:
    """Return a quantity in its base unit.

    Args:
        text: a number with a unit, or a number in the base unit.
        units: factor of each unit.
        option: the option that was given, for the message.
        names: the units, for the message.
        example: a quantity, for the message.

    Raises:
        UsageError: it is neither, or not positive.
    """
    if isinstance(text, str):
        match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-zA-Zµ]+)\s*", text)
        value = float(match[1]) * units.get(match[2], 0.0) if match else 0.0
    else:
        value = float(text) if is_a(text, float) else 0.0
    if value <= 0:
        raise UsageError(f"{option} must be a positive number with a unit ({names}), such as {example}; got {text!r}.")
    return value


def format_quantity(name: str, value: float) -> str:
    """Return a cost with its unit.

    Args:
        name: ``"latency"``, ``"size"``, ``"memory"`` or ``"energy"``.
        value: in milliseconds, bytes or millijoules.

    >>> format_quantity("size", 4_200_000), format_quantity("size", 900), format_quantity("energy", 5.0)
    ('4.2 MB', '0.9 kB', '5 mJ')
    """
    if name in ("size", "memory"):
        return f"{value / 1e6:.5g} MB" if value >= 1e6 else f"{value / 1e3:.5g} kB"
    return f"{value:.4g} {'ms' if name == 'latency' else 'mJ'}"


def is_a(value: object, kind: Any) -> bool:
    """Return whether a value is of an annotated type; a bool is no number, and neither is a number that is not finite.

    >>> is_a(2, float), is_a(True, int), is_a(float("nan"), float), is_a(("cpu",), tuple[str, ...])
    (True, False, False, True)
    """
    if kind in (int, float):
        of_kind = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
        return of_kind and math.isfinite(value)  # type: ignore[arg-type]
    if kind == tuple[str, ...]:
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
    return isinstance(value, kind)
