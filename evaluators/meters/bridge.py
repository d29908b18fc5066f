"""Small references for fast candidates: their own ratios to the baseline were measured carefully, once a study."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import write_atomically
from ..measurement import Latency
from ..runtime import Arrays, Engine

TRIES = 5
"""Runs of a candidate that tell roughly how fast it is, after one that is not counted."""

FILE = "bridge.model"
"""A bridge's model, in the folder of the baseline."""


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """A small model that stands for the baseline: a candidate's ratio to it, times its own ratio, is the candidate's.

    Attributes:
        artefact: its file, for the baseline's runtime.
        ratio: its time over the baseline's.
        spread: half-width of the 95 % interval of the ratio, relative to it.
    """

    artefact: bytes
    ratio: float
    spread: float

    @classmethod
    def of(cls, artefact: bytes, latency: Latency) -> Bridge:
        """Return a bridge that was measured against the baseline."""
        return cls(artefact=artefact, ratio=latency.ratio, spread=latency.half_width / latency.ratio)

    def write(self, folder: Path) -> Mapping[str, float]:
        """Write its model to a folder; return the rest as data for JSON."""
        write_atomically(folder / FILE, self.artefact)
        return {"ratio": self.ratio, "spread": self.spread}

    @classmethod
    def read(cls, folder: Path, found: Mapping[str, Any] | None) -> Bridge | None:
        """Read what `write` has written; None if there is nothing."""
        if found is None or not (folder / FILE).exists():
            return None
        return cls(artefact=(folder / FILE).read_bytes(), ratio=float(found["ratio"]), spread=float(found["spread"]))


@dataclass
class Offers:
    """Keeps, of the models that are timed before a search, the one that is nearest to a wanted time.

    Attributes:
        wanted_ms: the time of the best bridge.
        artefact: the file of the nearest one so far.
        found_ms: its time.
    """

    wanted_ms: float
    artefact: bytes = b""
    found_ms: float = math.inf

    def add(self, artefact: bytes, time_ms: float) -> None:
        """Keep a model if it is nearer, as a factor."""
        if not self.artefact or nearest((self.found_ms, time_ms), self.wanted_ms):
            self.artefact, self.found_ms = artefact, time_ms


def nearest(times_ms: Sequence[float], candidate_ms: float) -> int:
    """Return which of several references is nearest to a candidate, as a factor.

    >>> nearest((20.0, 0.5), 4.0), nearest((20.0, 0.5), 2.0)
    (0, 1)
    """
    return min(range(len(times_ms)), key=lambda i: abs(math.log(times_ms[i] / candidate_ms)))


def roughly_ms(engine: Engine, inputs: Arrays) -> float:
    """Return the least milliseconds of a few runs."""
    engine.infer(inputs)
    times = []
    for _ in range(TRIES):
        started = time.perf_counter()
        engine.infer(inputs)
        times.append(time.perf_counter() - started)
    return 1e3 * max(min(times), 1e-6)
