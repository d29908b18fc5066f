"""Compares a model with the unchanged network in words: faster or slower, smaller or larger."""

from __future__ import annotations

from ..evaluators.measurement import Measurement


def speed(ratio: float) -> str:
    """Return the speed of a model relative to the unchanged network, in words.

    Args:
        ratio: the latency over that of the unchanged network.

    >>> speed(0.5), speed(1.16), speed(1.001)
    ('2.00× faster', '1.16× slower', 'as fast')
    """
    return _compared(1 / ratio, 2, "faster", "slower", "as fast") if ratio > 0 else "too fast to be timed"


def size(before: float, after: float) -> str:
    """Return the size of a file relative to the unchanged network's, in words.

    >>> size(4e6, 1e6), size(1e6, 1.2e6), size(1e6, 1e6)
    ('4.0× smaller', '1.2× larger', 'as large')
    """
    return _compared(before / after, 1, "smaller", "larger", "as large") if before > 0 and after > 0 else ""


def gains(measured: Measurement, base: Measurement) -> str:
    """Return the speed and size of a model relative to the unchanged network, in words."""
    parts = speed(measured.latency.ratio), size(base.size_bytes, measured.size_bytes)
    return ", ".join(filter(None, parts))


def _compared(gain: float, digits: int, better: str, worse: str, same: str) -> str:
    times = f"{max(gain, 1 / gain):.{digits}f}"
    if float(times) == 1:
        return same
    return f"{times}× {better if gain > 1 else worse}"
