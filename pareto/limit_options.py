"""Parses limits as a user writes them: `target_latency`, `min_accuracy`, `max_size` and others."""

from __future__ import annotations

import re
from typing import Any

from ..errors import UsageError
from ..studies.metric_units import SHARE, WORD
from ..units import Quantity, is_a, parse_energy, parse_latency, parse_size
from .limits import same_unit


def parse_accuracy(text: Quantity) -> tuple[float, bool, str | None]:
    """Return a minimum accuracy, whether it is relative to the unchanged network's, and its unit or None.

    Text with a sign is relative; a number is not.

    >>> parse_accuracy("0.88"), parse_accuracy("88%"), parse_accuracy(-0.35)
    ((0.88, False, None), (0.88, False, '%'), (-0.35, False, None))
    >>> parse_accuracy("-0.5%"), parse_accuracy("-1e-05"), parse_accuracy("-0.3 dB")
    ((-0.005, True, '%'), (-1e-05, True, None), (-0.3, True, 'dB'))
    """
    if is_a(text, float):
        return float(text), False, None
    match = re.fullmatch(rf"\s*([+-]?)((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*({WORD}|%)?\s*", str(text))
    if match is None:
        raise UsageError(
            "--min-accuracy must be a number on the metric's scale, such as 0.88 or 88%, or, with a sign, the "
            "difference from the unchanged network, such as -0.005 or -0.5%; a metric that is not a share may have its "
            f"unit, such as -0.3dB; got {text!r}."
        )
    value = float(match[1] + match[2]) / (100 if match[3] == SHARE else 1)
    return round(value, 12) if match[3] == SHARE else value, bool(match[1]), match[3]


def parse_limits(
    target_latency: Quantity,
    *,
    min_accuracy: Quantity | None = None,
    min_change: Quantity | None = None,
    max_size: Quantity | None = None,
    max_memory: Quantity | None = None,
    max_energy: Quantity | None = None,
) -> dict[str, Any]:
    """Return limits as fields of `Options`.

    >>> parse_limits("5ms", min_accuracy="-1%", max_size="4MB")
    {'target_ms': 5.0, 'min_change': -0.01, 'unit': '%', 'max_size_bytes': 4000000.0}
    >>> parse_limits(5, min_change=-0.01, max_size=4e6)
    {'target_ms': 5.0, 'min_change': -0.01, 'max_size_bytes': 4000000.0}
    """
    found: dict[str, Any] = {"target_ms": parse_latency(target_latency)}
    units = []
    if min_accuracy is not None:
        accuracy, relative, unit = parse_accuracy(min_accuracy)
        found["min_change" if relative else "min_accuracy"] = accuracy
        units.append(unit)
    if min_change is not None:
        if "min_change" in found:
            raise UsageError(f"one least change can be asked for; got {min_accuracy!r} and {min_change!r}.")
        found["min_change"], _, unit = parse_accuracy(min_change)
        units.append(unit)
    for unit in filter(None, units):
        same_unit(found.setdefault("unit", unit), unit)
    if max_size is not None:
        found["max_size_bytes"] = parse_size(max_size, "--max-size")
    if max_memory is not None:
        found["max_memory_bytes"] = parse_size(max_memory, "--max-memory")
    if max_energy is not None:
        found["max_energy_mj"] = parse_energy(max_energy)
    return found


LIMITS = ("target_latency", "min_accuracy", "min_change", "max_size", "max_memory", "max_energy")
"""What `parse_limits` reads."""
