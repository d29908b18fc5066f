"""."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .errors import UsageError
from .search.options import _is
from .studies.metric_units import SHARE, WORD

if TYPE_CHECKING:
    pass


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


def parse_accuracy(text: Words) -> tuple[float, bool, str | None]:
    """Return a least accuracy, whether it is relative to the unchanged network's, and its unit, None without one.

    In words, with a sign it is relative.

    >>> parse_accuracy("0.88"), parse_accuracy("88%"), parse_accuracy(-0.35)
    ((0.88, False, None), (0.88, False, '%'), (-0.35, False, None))
    >>> parse_accuracy("-0.5%"), parse_accuracy("-1e-05"), parse_accuracy("-0.3 dB")
    ((-0.005, True, '%'), (-1e-05, True, None), (-0.3, True, 'dB'))
    """
    if _is(text, float):
        return float(text), False, None
    match = re.fullmatch(rf"\s*([+-]?)((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*({WORD}|%)?\s*", str(text))
    if match is None:
        raise UsageError(
            "--min-accuracy must be a number on the metric's scale, such as 0.88 or 88%, or, with a sign, the "
            "difference to the unchanged network, such as -0.005 or -0.5%; another metric than a share may have its "
            f"unit, such as -0.3dB; got {text!r}."
        )
    value = float(match[1] + match[2]) / (100 if match[3] == SHARE else 1)
    return round(value, 12) if match[3] == SHARE else value, bool(match[1]), match[3]


def _quantity(text: Words, units: Mapping[str, float]) -> float | None:
    if not isinstance(text, str):
        return float(text) if _is(text, float) and text > 0 else None
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-zA-Zµ]+)\s*", text)
    if match is None or match[2] not in units or float(match[1]) <= 0:
        return None
    return float(match[1]) * units[match[2]]


def format_quantity(name: str, value: float) -> str:
    """Return a cost in words.

    >>> told("size", 4_200_000), told("size", 900), told("energy", 5.0)
    ('4.2 MB', '0.9 kB', '5 mJ')
    """
    if name in ("size", "memory"):
        return f"{value / 1e6:.5g} MB" if value >= 1e6 else f"{value / 1e3:.5g} kB"
    return f"{value:.4g} {'ms' if name == 'latency' else 'mJ'}"
