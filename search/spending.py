"""What a candidate costs besides time: measured where a limit asks for it, and told from too much."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from ..errors import InfeasibleError
from ..evaluators.evaluator import Request
from ..evaluators.latency import Meter
from ..evaluators.measurement import Infeasible, Measurement
from .limits import too_much

SLACK = 1.05
"""Training may make a compact file so much smaller; larger ones end before it."""


class Spending:
    """Bytes, memory and energy of one candidate, on each runtime.

    Args:
        request: its limits, and what to measure.
        meter: measures.
        compact: whether the size may still change.
    """

    def __init__(self, request: Request, meter: Meter, *, compact: bool = False) -> None:
        self._most = {
            "size": request.max_size_bytes,
            "memory": request.max_memory_bytes,
            "energy": request.max_energy_mj,
        }
        self._slack = {"size": SLACK if compact else 1.0}
        self._measures: dict[str, Callable[..., float | None]] = {"memory": meter.memory, "energy": meter.energy}
        self._measures = {name: measure for name, measure in self._measures.items() if name in request.also}
        self._found: dict[str, dict[str, float]] = {name: {} for name in self._most}

    def weigh(self, sizes: Mapping[str, int]) -> None:
        """Take the bytes of the file on each runtime."""
        self._found["size"].update(sizes)

    def added(self, measurement: Measurement) -> Measurement:
        """Return a measurement with the memory and energy on its runtime."""
        runtime = measurement.latency.runtime
        memory, energy = (self._found[name].get(runtime) for name in ("memory", "energy"))
        return replace(
            measurement,
            memory_bytes=measurement.memory_bytes if memory is None else int(memory),
            energy_mj=measurement.energy_mj if energy is None else energy,
        )

    def least(self, outcome: Infeasible) -> Infeasible:
        """Return an outcome with the least of each cost on any runtime."""
        size, memory, energy = (min(found.values(), default=None) for found in self._found.values())
        return replace(
            outcome,
            size_bytes=None if size is None else int(size),
            memory_bytes=None if memory is None else int(memory),
            energy_mj=energy,
        )

    def within(
        self, artefacts: Mapping[str, bytes], on: Callable[[str], AbstractContextManager[None]]
    ) -> tuple[str, ...]:
        """Measure what is asked for, and return the runtimes on which the candidate is over no limit.

        Args:
            artefacts: the candidate in each runtime's own file.
            on: tells that a rung is begun.

        Raises:
            InfeasibleError: it is over a limit on all of them, or that cannot be told of any.
        """
        left = tuple(artefacts)
        for name in self._most:
            failed = self._measure(name, {runtime: artefacts[runtime] for runtime in left}, on)
            left = self._under(name, left, failed)
        return left

    def _measure(
        self, name: str, artefacts: Mapping[str, bytes], on: Callable[[str], AbstractContextManager[None]]
    ) -> InfeasibleError | None:
        """Measure a cost on each runtime; return the first reason why that failed."""
        reasons = []
        for runtime, artefact in artefacts.items() if name in self._measures else ():
            try:
                with on(name):
                    value = self._measures[name](artefact, runtime=runtime)
            except InfeasibleError as error:
                reasons.append(error)
            else:
                if value is not None:
                    self._found[name][runtime] = value
        return next(iter(reasons), None)

    def _under(self, name: str, runtimes: tuple[str, ...], failed: InfeasibleError | None) -> tuple[str, ...]:
        most, found = self._most[name], self._found[name]
        if most is None:
            return runtimes
        enough = most * self._slack.get(name, 1.0)
        left = tuple(runtime for runtime in runtimes if found.get(runtime, math.inf) <= enough)
        if left:
            return left
        least = min((found[runtime] for runtime in runtimes if runtime in found), default=None)
        if least is None:
            raise failed or InfeasibleError(f"this runtime does not tell its {name}, which is limited", rung=name)
        raise InfeasibleError(too_much(name, least, most), rung=name)
