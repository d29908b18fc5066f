"""What a candidate costs besides time: measured where a limit asks for it, and told from too much."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

from ...errors import InfeasibleError
from ...units import format_quantity
from ..evaluator import Request
from ..measurement import Deployment, Infeasible, Latency, Measurement, slowest
from ..meters.latency import Meter
from .deployments import within_limit

SLACK = 1.05
"""Training may make a compact file so much smaller; larger ones end before it."""


class ResourceLimits:
    """Bytes, memory and energy of one candidate, in each deployment.

    Args:
        request: its limits, and what to measure.
        meters: one for each device, by its name.
        compact: whether the size may still change.
    """

    def __init__(self, request: Request, meters: Mapping[str, Meter], *, compact: bool = False) -> None:
        self._most = {
            "size": request.max_size_bytes,
            "memory": request.max_memory_bytes,
            "energy": request.max_energy_mj,
        }
        self._slack = {"size": SLACK if compact else 1.0}
        self._meters = meters
        self._also = request.also
        self._found: dict[str, dict[Deployment, float]] = {name: {} for name in self._most}

    def weigh(self, sizes: Mapping[Deployment, int]) -> None:
        """Keep the size of the file that each deployment serves."""
        self._found["size"].update(sizes)

    def added(self, measurement: Measurement) -> Measurement:
        """Return a measurement with the memory and energy of its deployment."""
        deployment = measurement.deployment
        memory, energy = (self._found[name].get(deployment) for name in ("memory", "energy"))
        return replace(
            measurement,
            memory_bytes=measurement.memory_bytes if memory is None else int(memory),
            energy_mj=measurement.energy_mj if energy is None else energy,
        )

    def least(self, outcome: Infeasible) -> Infeasible:
        """Return an outcome with the least of each cost in any deployment."""
        size, memory, energy = (min(found.values(), default=None) for found in self._found.values())
        return replace(
            outcome,
            size_bytes=None if size is None else int(size),
            memory_bytes=None if memory is None else int(memory),
            energy_mj=energy,
        )

    def within(
        self, artefacts: Mapping[Deployment, bytes], on: Callable[[str], AbstractContextManager[None]]
    ) -> tuple[Deployment, ...]:
        """Measure what is asked for, and return the deployments that meet all limits; see `within_limit`.

        Args:
            artefacts: the candidate as the file that each deployment serves.
            on: tells that a rung is begun.

        Raises:
            InfeasibleError: it is over a limit at all of them, or none could be measured.
        """
        left = tuple(artefacts)
        for name in self._most:
            failed = self._measure(name, {deployment: artefacts[deployment] for deployment in left}, on)
            left = self._under(name, left, failed)
        return left

    def _measure(
        self, name: str, artefacts: Mapping[Deployment, bytes], on: Callable[[str], AbstractContextManager[None]]
    ) -> InfeasibleError | None:
        """Measure a cost in each deployment; return the first reason why that failed."""
        reasons = []
        for deployment, artefact in artefacts.items() if name in self._also else ():
            meter = self._meters[deployment.device]
            measure: Callable[..., float | None] = {"memory": meter.memory, "energy": meter.energy}[name]
            try:
                with on(name):
                    value = measure(artefact, runtime=deployment.runtime)
            except InfeasibleError as error:
                reasons.append(error)
            else:
                if value is not None:
                    self._found[name][deployment] = value
        return next(iter(reasons), None)

    def _under(
        self, name: str, deployments: tuple[Deployment, ...], failed: InfeasibleError | None
    ) -> tuple[Deployment, ...]:
        most, found = self._most[name], self._found[name]
        if most is None:
            return deployments
        costs = {each: found.get(each, math.inf) for each in deployments}
        left = within_limit(costs, most * self._slack.get(name, 1.0))
        if left:
            return left
        least = min((found[each] for each in deployments if each in found), default=None)
        if least is None:
            raise failed or InfeasibleError(f"this runtime does not tell its {name}, which is limited", rung=name)
        raise InfeasibleError(too_much(name, least, most), rung=name)


def within_target(latencies: Mapping[Deployment, Latency], target_ms: float | None) -> tuple[Deployment, ...]:
    """Return the deployments on which a candidate is not surely too slow.

    Raises:
        InfeasibleError: it is too slow on all of them.
    """
    if target_ms is None:
        return tuple(latencies)
    fast = within_limit({at: latency.least_ms for at, latency in latencies.items()}, target_ms)
    if not fast:
        raise InfeasibleError(too_slow(slowest(list(latencies.values())), target_ms), rung="latency")
    return fast


def too_much(name: str, value: float, limit: float) -> str:
    """Return the reason of a candidate that is cut."""
    return f"its {name} of {format_quantity(name, value)} is over the limit of {format_quantity(name, limit)}"


def too_slow(latency: Latency, target_ms: float) -> str:
    """Return the reason of a candidate that is cut when it was timed."""
    interval = f"{latency.median_ms:.2f} ms [{latency.least_ms:.2f}, {latency.most_ms:.2f}]"
    where = latency.device and f" on {latency.device}"
    return f"{interval}{where} is over the target of {target_ms:g} ms"
