"""What depends on a candidate's latency in a search, and so how surely it must be known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .measurement import Latency, Measurement


@dataclass(frozen=True, kw_only=True)
class Stake:
    """The limit that a candidate must meet, and the models that it must beat.

    Attributes:
        target_ms: the latency limit.
        rivals: accuracy, upper end of the milliseconds' interval, and bytes of the models of the front.
    """

    target_ms: float
    rivals: tuple[tuple[float, float, int], ...] = ()

    @classmethod
    def of(cls, target_ms: float, front: Iterable[Measurement]) -> Stake:
        """Return the stake of the next candidate of a search with this front."""
        rivals = ((m.accuracy, m.latency.most_ms, m.size_bytes) for m in front)
        return cls(target_ms=target_ms, rivals=tuple(rivals))

    def placed(self, latency: Latency) -> bool:
        """Return whether a candidate is clearly too slow, or clearly fast enough.

        >>> from .measurement import Window
        >>> windows = tuple(Window(baseline_ns=(100,), candidate_ns=(c,)) for c in (49, 50, 51))
        >>> latency = Latency(windows=windows, baseline_ms=10.0)  # between 4.75 and 5.25 ms
        >>> [Stake(target_ms=target_ms).placed(latency) for target_ms in (4.7, 5.0, 5.3)]
        [True, False, True]
        """
        return latency.least_ms > self.target_ms or latency.meets(self.target_ms)

    def behind(self, accuracy: float, latency: Latency, size_bytes: int) -> bool:
        """Return whether a model of the front is better, clearly faster and no larger."""
        return any(
            better > accuracy and most_ms < latency.least_ms and size <= size_bytes
            for better, most_ms, size in self.rivals
        )
