"""Times a network in its deployments, each a runtime on a device, and finds those that meet a limit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ...errors import InfeasibleError
from ..measurement import Deployment, Latency
from ..meters.latency import FAST_MS, PROBE, SEARCH, Meter
from ..meters.parallel import at_once


def time_deployments(
    meters: Mapping[str, Meter],
    artefacts: Mapping[Deployment, bytes],
    known: Mapping[Deployment, Latency],
    timeout_s: float,
    target_ms: float | None = None,
) -> dict[Deployment, Latency]:
    """Time a network in its deployments: one runtime after another on each device, and all devices at once.

    One process is enough for a network that clearly meets the target, or clearly misses it: the models that a search
    ends with are measured again, carefully.

    Args:
        meters: one for each device, by its name.
        artefacts: the network as the file that each deployment serves.
        known: latencies that were measured before.
        timeout_s: seconds after which one timing is given up.
        target_ms: latency limit; None takes one process.

    Raises:
        InfeasibleError: it cannot be timed on some device, by whatever runtime.
    """

    def on(device: str) -> dict[Deployment, Latency | InfeasibleError]:
        found: dict[Deployment, Latency | InfeasibleError] = {}
        for deployment, artefact in artefacts.items():
            if deployment.device == device and deployment not in known:
                try:
                    found[deployment] = _raced(meters[device], deployment, artefact, timeout_s, target_ms)
                except InfeasibleError as error:
                    found[deployment] = error
        return found

    answers = {deployment: known[deployment] for deployment in artefacts if deployment in known}
    failed: dict[Deployment, InfeasibleError] = {}
    for found in at_once([partial(on, device) for device in meters]):
        for deployment, answer in found.items():
            if isinstance(answer, Latency):
                answers[deployment] = answer
            else:
                failed[deployment] = answer
    for deployment, error in failed.items():
        if all(deployment.device != other.device for other in answers):
            where = deployment.device and f"on {deployment.device}: "
            raise InfeasibleError(f"{where}{error.reason}", rung=error.rung)
    return {deployment: answers[deployment] for deployment in artefacts if deployment in answers}


def _raced(meter: Meter, at: Deployment, artefact: bytes, timeout_s: float, target_ms: float | None) -> Latency:
    """Time a network in one process after another until it is clear whether it meets a target, or they are enough."""
    latency = meter.measure(artefact, PROBE, runtime=at.runtime, timeout_s=timeout_s)
    while target_ms is not None and unsure(latency) and not latency.placed(target_ms):
        latency = latency.joined(meter.measure(artefact, PROBE, runtime=at.runtime, timeout_s=timeout_s))
    return latency


def unsure(latency: Latency) -> bool:
    """Return whether a fast candidate was timed in fewer processes than the plan has."""
    return 0 < latency.processes < SEARCH.processes and latency.median_ms < FAST_MS


def within_limit(costs: Mapping[Deployment, float], most: float) -> tuple[Deployment, ...]:
    """Return the deployments in which a candidate meets a limit; none if it misses the limit on all devices.

    On a device where it costs more with every runtime, the least is kept: other devices may have it on their fronts.

    >>> at = {Deployment("a", "x"): 1.0, Deployment("b", "x"): 9.0}
    >>> at |= {Deployment("a", "y"): 7.0, Deployment("b", "y"): 8.0}
    >>> [str(each) for each in within_limit(at, 5.0)], within_limit(at, 0.5)
    (['a on x', 'a on y'], ())
    """
    found = {each for each, cost in costs.items() if cost <= most}
    for device in {each.device for each in costs} - {each.device for each in found} if found else ():
        found.add(min((each for each in costs if each.device == device), key=costs.__getitem__))
    return tuple(each for each in costs if each in found)
