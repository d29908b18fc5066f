"""The interface between a search and what it evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..spaces.candidate import Candidate
from .measurement import Latency, Measurements, Outcome
from .meters.latency import Meter
from .promotion import Promotion


@dataclass(frozen=True, kw_only=True)
class Request:
    """One candidate to evaluate, and how far to go with it.

    Attributes:
        folder: where its files go, below the run directory.
        candidate: what to build.
        epochs: passes over the training data.
        unchanged: whether it is the task's model itself, even if a smaller student is compressed instead.
        seed: random seed.
        target_ms: a candidate that is surely slower ends when it was timed; None never ends one.
        max_size_bytes: a larger one ends then too; this and the next two like the target.
        max_memory_bytes: one that needs more ends before it is trained.
        max_energy_mj: likewise.
        also: what to measure besides, of ``memory`` and ``energy``.
        known: what was measured of it before; what is missing is added to that, without training.
        latencies: how fast it is on each runtime, where that is known; it is not timed again then.
        ancestor: file, below the run directory, with the weights to start from; empty starts from the original.
        test: whether to score the test data too.
        promotion: says whether it is worth a training once it was scored without; None trains it.
        timeout_s: seconds after which it is given up.
        attempt: how many times it was begun before.

    """

    folder: str
    candidate: Candidate
    epochs: float
    unchanged: bool = False
    seed: int = 0
    target_ms: float | None = None
    max_size_bytes: float | None = None
    max_memory_bytes: float | None = None
    max_energy_mj: float | None = None
    also: tuple[str, ...] = ()
    known: Measurements = ()
    latencies: tuple[Latency, ...] = ()
    ancestor: str = ""
    test: bool = False
    promotion: Promotion | None = None
    timeout_s: float = 3600.0
    attempt: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Host:
    """What the process that runs an evaluator provides to it.

    Attributes:
        folder: the directory that holds the folders of requests.
        meters: one meter for each of the study's devices, by the device's name; this machine's name is empty.
    """

    folder: Path = Path()
    meters: Mapping[str, Meter] = field(default_factory=dict)


BARE = Host()
"""A host for evaluators that write no files and measure nothing."""


class Evaluator(Protocol):
    """Evaluates candidates."""

    def evaluate(self, request: Request, host: Host) -> Outcome:
        """Return what was measured, or why nothing could be; raise only for defects of the evaluator."""
        ...
