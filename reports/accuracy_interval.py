"""Intervals of accuracies, and of the differences of two of them."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from ..evaluators.scores import Scores, unpacked

Z = 1.959963984540054
"""Standard deviations of a normal distribution within which 95 % lie."""


def rounded(value: float) -> float:
    """Return six digits of a number, however small it is.

    >>> rounded(0.1234567), rounded(1.234567891e-9)
    (0.123457, 1.23457e-09)
    """
    return float(f"{value:.6g}")


def interval(share: float | None, examples: int | None) -> list[float] | None:
    """Return Wilson's 95 % interval of a share; None if the number of examples is unknown.

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
    """Return the 95 % interval of the difference of two shares of the same examples, as if from two samples.

    The true interval is narrower, because the examples are the same; the shares alone do not say by how much.
    (R. G. Newcombe, Interval estimation for the difference between independent proportions, method 10, 1998.)

    >>> [round(end, 3) for end in difference(0.98, 0.98, 400)]
    [-0.021, 0.021]
    """
    one, two = interval(share, examples), interval(other, examples)
    if one is None or two is None:
        return None
    down = math.hypot(share - one[0], two[1] - other)
    up = math.hypot(one[1] - share, other - two[0])
    return [rounded(share - other - down), rounded(share - other + up)]


def paired(one: str, other: str) -> list[float] | None:
    """Return the 95 % interval of the difference of two accuracies on the same examples, from their packed scores.

    For right and wrong answers it is Newcombe's, from both Wilson intervals and the correlation between them; otherwise
    it is Student's of the examples' differences. (R. G. Newcombe, Improved confidence intervals for the difference
    between binomial proportions based on paired data, method 10, Statistics in Medicine 1998.)

    Returns:
        None if the scores of one of them are unknown.
    """
    mine, theirs = unpacked(one), unpacked(other)
    if mine is None or theirs is None or len(mine) != len(theirs):
        return None
    change = float(mine.mean() - theirs.mean())
    if not all(np.isin(scores, (0.0, 1.0)).all() for scores in (mine, theirs)):
        half = float(stdtrit(len(mine) - 1, 0.975) * np.std(mine - theirs, ddof=1) / math.sqrt(len(mine)))
        return [rounded(change - half), rounded(change + half)]
    first, second = interval(mine.mean(), len(mine)), interval(theirs.mean(), len(theirs))
    assert first is not None
    assert second is not None
    (up, down), (lift, fall) = _arms(mine, first), _arms(theirs, second)
    phi = _correlation(mine, theirs)
    low = math.sqrt(max(0.0, down**2 - 2 * phi * down * lift + lift**2))
    high = math.sqrt(max(0.0, up**2 - 2 * phi * up * fall + fall**2))
    return [rounded(change - low), rounded(change + high)]


def _arms(scores: Scores, ends: list[float]) -> tuple[float, float]:
    """Return how far an interval reaches up and down from the share."""
    share = float(scores.mean())
    return ends[1] - share, share - ends[0]


def _correlation(one: Scores, other: Scores) -> float:
    """Return the correlation of right answers with Newcombe's correction for continuity; 0 where one has no wrong."""
    n = len(one)
    both, mine, theirs = (int(each.sum()) for each in (one * other, one * (1 - other), (1 - one) * other))
    neither = n - both - mine - theirs
    product = (both + mine) * (theirs + neither) * (both + theirs) * (mine + neither)
    if not product:
        return 0.0
    together = both * neither - mine * theirs
    return (max(together - n / 2, 0.0) if together > 0 else together) / math.sqrt(product)
