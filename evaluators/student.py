"""Student's distribution, without SciPy."""

from __future__ import annotations

import math
from functools import cache


@cache
def student(freedom: int) -> float:
    """Return the 97.5th percentile of Student's distribution with these degrees of freedom.

    SciPy has it too, and takes longer to import than all else that a process needs to time a model. The series is that
    of Abramowitz and Stegun, 26.7.3 and 26.7.4.

    >>> round(student(1), 4), round(student(2), 4), round(student(30), 4)
    (12.7062, 4.3027, 2.0423)
    """

    def within(angle: float) -> float:
        """Return the probability of less than this, either way, of ``t = sqrt(freedom) * tan(angle)``."""
        term = total = math.cos(angle) if freedom % 2 else 1.0
        for k in range(2 + freedom % 2, freedom, 2):
            term *= (k - 1) / k * math.cos(angle) ** 2
            total += term
        if freedom % 2:
            return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
        return math.sin(angle) * total

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 0.95 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)
