"""Builds a candidate for each runtime, and checks that the runtimes compute what PyTorch does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ...compressors.compact.acz import pack
from ...errors import InfeasibleError
from ...spaces.candidate import BITS
from ..device_lock import pause
from ..evaluator import Request
from ..parity import Parity
from ..runtime import Runtime
from ..scores import Accuracy
from .engines import Engines
from .rungs import Rungs

if TYPE_CHECKING:
    from ...compressors.inherited_weights import Ancestor
    from ...compressors.pipeline import Begun, Compressed
    from ...compressors.technique import Supplies
    from ...studies.task import Task


@dataclass(frozen=True)
class RuntimeFile:
    """A compressed network in one runtime's own file.

    Attributes:
        runtime: serves the file.
        artefact: the file's content.
        parity: how far the runtime's outputs are from PyTorch's.
        compact: whether the compact file's bytes count as its size.
    """

    runtime: Runtime
    artefact: bytes
    parity: Parity
    compact: bool

    @cached_property
    def packed(self) -> bytes:
        """The compact file; packing takes a while."""
        return pack(self.artefact)

    @property
    def size_bytes(self) -> int:
        """The bytes that count."""
        return len(self.packed if self.compact else self.artefact)


@dataclass(frozen=True)
class ScoredModel:
    """A network in one runtime's file, with its accuracy on the validation data.

    Attributes:
        epochs: passes over the training data that it has had.
        partly: whether the accuracy is that of a part of the data.
    """

    compressed: Compressed
    file: RuntimeFile
    accuracy: Accuracy
    epochs: float
    partly: bool = False


def build_candidate(
    request: Request,
    task: Task,
    supplies: Supplies,
    runtimes: Sequence[Runtime],
    *,
    epochs: float,
    ancestor: Ancestor | None,
    begun: Begun | None,
    answers: Path,
    rungs: Rungs,
    engines: Engines,
    compact: bool,
) -> tuple[Compressed, list[RuntimeFile]]:
    """Apply a candidate, train it for some epochs, and convert it for each runtime that can serve it.

    Raises:
        InfeasibleError: no runtime can serve it; the reason is the first runtime's.
    """
    from ...compressors.pipeline import apply_candidate  # noqa: PLC0415  # start-up time: torch is slow to import
    from .served import checked  # noqa: PLC0415  # start-up time: torch is slow to import

    with rungs.on("train" if epochs else "build"):
        compressed = apply_candidate(
            task,
            request.candidate,
            supplies,
            epochs=epochs,
            seed=request.seed,
            stream=request.stream,
            answers=answers,
            ancestor=ancestor,
            begun=begun,
            deadline=rungs.deadline,
            pause=pause,
        )
        quantized, files, reasons = bool(request.candidate[BITS]), [], []
        for runtime in runtimes:
            pause()
            try:
                made = checked(compressed, runtime, supplies, engines, quantized=quantized)
            except InfeasibleError as error:
                reasons.append(error)
            else:
                files.append(RuntimeFile(runtime, *made, compact))
    if not files:
        raise reasons[0]
    return compressed, files
