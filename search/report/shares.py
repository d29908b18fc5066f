"""Intervals of accuracies that are shares of so many examples."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""Standard deviations of a normal distribution within which 95 % lie."""


def interval(share: float | None, examples: int | None) -> list[float] | None:
    """Return Wilson's 95 % interval of a share; None where the number of examples is not known.

    (E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927.)

    >>> [round(end, 3) for end in interval(0.98, 400)]
    [0.961, 0.99]
    >>> interval(0.98, None)
    """
    if share is None or not examples or not 0 <= share <= 1:
        return None
    centre = (share + Z**2 / (2 * examples)) / (1 + Z**2 / examples)
    half = Z * math.sqrt(share * (1 - share) / examples + Z**2 / (4 * examples**2)) / (1 + Z**2 / examples)
    return [round(max(0.0, centre - half), 6), round(min(1.0, centre + half), 6)]


def difference(share: float, other: float, examples: int | None) -> list[float] | None:
    """Return the 95 % interval of the difference of two shares of the same examples, as if they were of two samples.

    That they are of the same ones makes the true interval narrower; how much cannot be told from the shares alone.
    (R. G. Newcombe, Interval estimation for the difference between independent proportions, method 10, 1998.)

    >>> [round(end, 3) for end in difference(0.98, 0.98, 400)]
    [-0.021, 0.021]
    """
    one, two = interval(share, examples), interval(other, examples)
    if one is None or two is None:
        return None
    down = math.hypot(share - one[0], two[1] - other)
    up = math.hypot(one[1] - share, other - two[0])
    return [round(share - other - down, 6), round(share - other + up, 6)]
