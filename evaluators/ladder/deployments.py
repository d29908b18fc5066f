"""The places where a model is served, a runtime on a device each: timed at all of them, and which may be afforded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ...errors import InfeasibleError
from ..measurement import Deployment, Latency
from ..meters.latency import SEARCH, Meter
from ..meters.parallel import at_once


def time_deployments(
    meters: Mapping[str, Meter],
    artefacts: Mapping[Deployment, bytes],
    known: Mapping[Deployment, Latency],
    timeout_s: float,
) -> dict[Deployment, Latency]:
    """Return how fast a network is at its places: on each device one runtime after another, all devices at once.

    Args:
        meters: one for each device, by its name.
        artefacts: the network in each place's own file.
        known: how fast it is at places where that was measured before.
        timeout_s: seconds after which one timing is given up.

    Raises:
        InfeasibleError: it cannot be timed on some device, by whatever runtime.
    """

    def on(device: str) -> dict[Deployment, Latency | InfeasibleError]:
        found: dict[Deployment, Latency | InfeasibleError] = {}
        for place, artefact in artefacts.items():
            if place.device == device and place not in known:
                try:
                    found[place] = meters[device].measure(artefact, SEARCH, runtime=place.runtime, timeout_s=timeout_s)
                except InfeasibleError as error:
                    found[place] = error
        return found

    answers = {place: known[place] for place in artefacts if place in known}
    failed: dict[Deployment, InfeasibleError] = {}
    for found in at_once([partial(on, device) for device in meters]):
        for place, answer in found.items():
            if isinstance(answer, Latency):
                answers[place] = answer
            else:
                failed[place] = answer
    for place, error in failed.items():
        if all(place.device != other.device for other in answers):
            where = place.device and f"on {place.device}: "
            raise InfeasibleError(f"{where}{error.reason}", rung=error.rung)
    return {place: answers[place] for place in artefacts if place in answers}


def within_limit(costs: Mapping[Deployment, float], most: float) -> tuple[Deployment, ...]:
    """Return the places where a candidate costs no more than it may; none where it costs more on all devices.

    On a device where it costs more with every runtime, the least is kept: other devices may have it on their fronts.

    >>> at = {Deployment("a", "x"): 1.0, Deployment("b", "x"): 9.0}
    >>> at |= {Deployment("a", "y"): 7.0, Deployment("b", "y"): 8.0}
    >>> [str(place) for place in within_limit(at, 5.0)], within_limit(at, 0.5)
    (['a on x', 'a on y'], ())
    """
    found = {place for place, cost in costs.items() if cost <= most}
    for device in {place.device for place in costs} - {place.device for place in found} if found else ():
        found.add(min((place for place in costs if place.device == device), key=costs.__getitem__))
    return tuple(place for place in costs if place in found)
