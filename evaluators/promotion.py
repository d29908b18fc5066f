"""Who is worth a training: what is hoped of a candidate once it was scored without one."""

from __future__ import annotations

from dataclasses import dataclass

from ..studies.metric_units import SHARE, shown
from .measurement import Latency


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """What earlier candidates tell: accuracies after training lie on a line over those before, give or take.

    Attributes:
        slope: of the line.
        intercept: of the line.
        give: how far above the line an accuracy may be hoped to lie.
        rivals: accuracy, milliseconds and bytes of the models of the front.
        unit: of the accuracies.
        spared: whether the candidate is trained in any case, to learn how often doubts are wrong.

    """

    slope: float
    intercept: float
    give: float
    rivals: tuple[tuple[float, float, int], ...]
    unit: str = SHARE
    spared: bool = False

    def doubt(self, one_shot_accuracy: float, latency: Latency, size_bytes: int) -> str:
        """Return why a candidate would not be on the front though all that is hoped of it came true; empty if it may.

        >>> promotion = Promotion(slope=0.5, intercept=0.5, give=0.05, rivals=((0.9, 2.0, 1000),))
        >>> from .measurement import Window
        >>> latency = Latency(windows=(Window(baseline_ns=(1,), candidate_ns=(1,)),) * 2, baseline_ms=3.0)
        >>> promotion.doubt(0.5, latency, 2000)
        '80.00% are hoped of it, 90.00% are on the front at 2.00 ms and 1 kB'
        >>> promotion.doubt(0.5, latency, 500), promotion.doubt(0.8, latency, 2000)
        ('', '')

        """
        hoped = max(one_shot_accuracy, self.intercept + self.slope * one_shot_accuracy + self.give)
        for accuracy, milliseconds, size in self.rivals:
            if accuracy > hoped and milliseconds <= latency.median_ms and size <= size_bytes:
                hope, there = shown(hoped, self.unit), shown(accuracy, self.unit)
                where = f"{milliseconds:.2f} ms and {size / 1e3:.5g} kB"
                return f"{hope} are hoped of it, {there} are on the front at {where}"
        return ""
