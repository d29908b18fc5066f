"""Prints a metric: a share in per cent, any other number with its unit.

A task may set the unit: ``metric_unit="%"`` for a share between 0 and 1, ``""`` for a plain number, or a word such as
``"dB"``. The default metric is a share. Without a unit the measured values decide: the metric is a share as long as
all of them, including the unchanged network's, lie between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable

SHARE, PLAIN = "%", ""
"""Units that are not words."""

WORD = r"[^\W\d_][^\s%|]{0,7}"
"""Pattern of a unit that is a word. It has at most eight characters, because it stands in table cells."""


def unit_of(declared: str | None, values: Iterable[float]) -> str:
    """Return a metric's unit: the declared one, otherwise the one that fits the measured values.

    >>> unit_of(None, [0.7, 0.0]), unit_of(None, [0.7, -3.2]), unit_of("dB", [0.7])
    ('%', '', 'dB')
    """
    if declared is not None:
        return declared
    return SHARE if all(0 <= value <= 1 for value in values) else PLAIN


def shown(value: float, unit: str) -> str:
    """Return a metric in words.

    >>> shown(0.88, "%"), shown(-0.352, ""), shown(30.274, "dB"), shown(-1300.27, "")
    ('88.00%', '-0.352', '30.27 dB', '-1300')
    """
    return f"{value:.2%}" if unit == SHARE else _with(_number(value), unit)


def change_shown(difference: float, unit: str) -> str:
    """Return the difference of two values of a metric in words.

    >>> change_shown(-0.005, "%"), change_shown(-0.41, "dB"), change_shown(0.0, "")
    ('-0.50%', '-0.41 dB', '+0')
    """
    return f"{difference:+.2%}" if unit == SHARE else _with(_number(difference, "+"), unit)


def change_of(difference: float, unit: str) -> str:
    """Return a difference of two values with the metric's name.

    >>> change_of(-0.005, "%"), change_of(-0.41, "dB")
    ('-0.50% accuracy', '-0.41 dB in the metric')
    """
    return f"{change_shown(difference, unit)} {'accuracy' if unit == SHARE else 'in the metric'}"


def points_of(difference: float, unit: str) -> str:
    """Return a difference for running text; for shares it is in points.

    >>> points_of(-0.005, "%"), points_of(-0.41, "dB")
    ('-0.50 points of accuracy', '-0.41 dB in the metric')
    """
    return f"{bare(difference, unit)} points of accuracy" if unit == SHARE else change_of(difference, unit)


def bare(difference: float, unit: str) -> str:
    """Return a difference as a number alone; for shares it is in points.

    >>> bare(-0.005, "%"), bare(-0.41, "dB")
    ('-0.50', '-0.41')
    """
    return f"{100 * difference:+.2f}" if unit == SHARE else _number(difference, "+")


def share_shown(share: float, digits: int = 1) -> str:
    """Return a share in per cent, or a large one as a multiple.

    >>> share_shown(0.0512), share_shown(75.6)
    ('5.1%', '76 times')
    """
    return f"{share:.{digits}%}" if not share >= 10 else f"{share:.0f} times"


def noun(unit: str) -> str:
    """Return the noun for a metric: only a share is an accuracy.

    >>> noun("%"), noun("dB")
    ('accuracy', 'metric')
    """
    return "accuracy" if unit == SHARE else "metric"


def _number(value: float, sign: str = "-") -> str:
    """Return a number with four digits, or with all before its point."""
    return f"{value:{sign}.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:{sign}.4g}"


def _with(number: str, unit: str) -> str:
    return f"{number} {unit}".rstrip()
