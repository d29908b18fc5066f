"""The interface between a search and what it evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..compressors.stream import Stream
from ..spaces.candidate import Candidate
from .measurement import Latency, Measurements, Outcome
from .meters.latency import Meter
from .promotion import Promotion


@dataclass(frozen=True, kw_only=True)
class Request:
    """One candidate to evaluate, and how far to go with it.

    Attributes:
        folder: folder for its files, relative to the run directory.
        candidate: what to build.
        epochs: passes over the training data.
        unchanged: whether it is the task's own network, even if a smaller student is compressed instead.
        seed: random seed.
        stream: the training data of the study, and where in them to begin; None draws an order from the seed.
        target_ms: latency limit; a clearly slower candidate is stopped after it was timed. None sets no limit.
        max_size_bytes: size limit, checked before the candidate is timed.
        max_memory_bytes: limit of the peak memory, checked before training.
        max_energy_mj: limit of the energy for one run, checked before training.
        also: what to measure in addition, of ``memory`` and ``energy``.
        known: earlier measurements; missing costs are added to them, without training.
        latencies: known latencies, one for each deployment; these are not timed again.
        ancestor: file with the weights to start from, relative to the run directory; empty starts from the original.
        test: whether to score the test data too.
        promotion: decides from the one-shot accuracy whether to train; None always trains.
        timeout_s: seconds after which the candidate is infeasible.
        attempt: number of earlier attempts.

    """

    folder: str
    candidate: Candidate
    epochs: float
    unchanged: bool = False
    seed: int = 0
    stream: Stream | None = None
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
        answers: folder of the teacher's outputs, which the processes of a node share; None for ``answers`` in `folder`.
        meters: one meter for each of the study's devices, by the device's name; this machine's name is empty.
    """

    folder: Path = Path()
    answers: Path | None = None
    meters: Mapping[str, Meter] = field(default_factory=dict)


BARE = Host()
"""A host for evaluators that write no files and measure nothing."""


class Evaluator(Protocol):
    """Evaluates candidates."""

    def evaluate(self, request: Request, host: Host) -> Outcome:
        """Return what was measured, or why nothing could be; raise only for defects of the evaluator."""
        ...
