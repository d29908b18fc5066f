"""Times a network in its deployments, each a runtime on a device, and finds those that meet a limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ...errors import InfeasibleError
from ..measurement import Deployment, Latency
from ..meters.latency import FAST_MS, PROBE, SEARCH, Meter
from ..meters.parallel import at_once
from ..stake import Stake


def time_deployments(
    meters: Mapping[str, Meter],
    artefacts: Mapping[Deployment, bytes],
    known: Mapping[Deployment, Latency],
    timeout_s: float,
    stake: Stake | None = None,
) -> dict[Deployment, Latency]:
    """Time a network in its deployments: one runtime after another on each device, and all devices at once.

    With a stake a process more is started only while the network is neither clearly too slow nor clearly fast enough.

    Args:
        meters: one for each device, by its name.
        artefacts: the network as the file that each deployment serves.
        known: latencies that were measured before.
        timeout_s: seconds after which one timing is given up.
        stake: what depends on the latencies; None takes as many processes as the plan has.

    Raises:
        InfeasibleError: it cannot be timed on some device, by whatever runtime.
    """
    enough = _never if stake is None else stake.placed

    def on(device: str) -> dict[Deployment, Latency | InfeasibleError]:
        found: dict[Deployment, Latency | InfeasibleError] = {}
        for deployment, artefact in artefacts.items():
            if deployment.device == device and deployment not in known:
                try:
                    found[deployment] = _raced(meters[device], deployment, artefact, timeout_s, enough)
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


def time_surely(
    meters: Mapping[str, Meter],
    artefacts: Mapping[Deployment, bytes],
    known: Mapping[Deployment, Latency],
    timeout_s: float,
) -> dict[Deployment, Latency]:
    """Return known latencies with all the processes that the plan has; the arguments are those of `time_deployments`.

    Raises:
        InfeasibleError: a process failed.
    """

    def on(device: str) -> dict[Deployment, Latency]:
        here = {at: artefact for at, artefact in artefacts.items() if at.device == device}
        return {at: _raced(meters[device], at, artefact, timeout_s, _never, known[at]) for at, artefact in here.items()}

    return {
        at: latency for found in at_once([partial(on, device) for device in meters]) for at, latency in found.items()
    }


def _raced(
    meter: Meter,
    at: Deployment,
    artefact: bytes,
    timeout_s: float,
    enough: Callable[[Latency], bool],
    latency: Latency | None = None,
) -> Latency:
    """Time a network in one process after another until that is enough, or as sure as a search can be."""
    while latency is None or (unsure(latency) and not enough(latency)):
        another = meter.measure(artefact, PROBE, runtime=at.runtime, timeout_s=timeout_s)
        latency = another if latency is None else latency.joined(another)
    return latency


def _never(latency: Latency) -> bool:
    """Return that a latency is not enough before it is as sure as a search can be."""
    return False


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
