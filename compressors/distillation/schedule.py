"""The learning rate of a training: a warm-up, and then half a cosine down to nothing, over all of its phases."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

WARM_UP = 0.2
"""Share of the steps in which the rate rises."""


@dataclass(frozen=True)
class Schedule:
    """One phase of a training, and its place in the whole.

    Attributes:
        epochs: passes of all phases together.
        shares: of the passes, one for each phase.
        phase: number of the phase.

    """

    epochs: float
    shares: tuple[float, ...] = (1.0,)
    phase: int = 0

    def rates(self, batches: int) -> list[float]:
        """Return the learning rate of each step of the phase, as a share of the largest.

        Args:
            batches: of a pass.

        >>> [round(rate, 2) for rate in Schedule(2.0).rates(4)]
        [0.56, 1.0, 0.93, 0.79, 0.59, 0.37, 0.18, 0.05]
        >>> [round(rate, 2) for rate in Schedule(2.0, (0.75, 0.25), 1).rates(4)]
        [0.18, 0.05]
        """
        steps = max(len(self.shares), round(self.epochs * batches))
        ends = [0]
        for number, share in enumerate(itertools.accumulate(self.shares), start=1):
            left = len(self.shares) - number  # each phase has a step at least
            ends.append(min(max(round(steps * share), ends[-1] + 1), steps - left))
        return [_rate((step + 1) / (steps + 1)) for step in range(ends[self.phase], ends[self.phase + 1])]


def _rate(place: float) -> float:
    """Return the rate at a place between 0 and 1 in the training."""
    if place < WARM_UP:
        return place / WARM_UP
    return (1 + math.cos(math.pi * (place - WARM_UP) / (1 - WARM_UP))) / 2
