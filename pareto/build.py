"""Makes a Pareto front of measured models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import AutocompressError
from ..evaluators.measurement import Deployment
from ..profiles.profile import Profile
from ..search.samplers.initial_design import BASELINE
from .front import Model, ParetoFront, decisive, everywhere, select
from .limits import Limits


def assemble(
    models: Sequence[Model], profile: Profile | None, limits: Limits, *, where: Path | None = None
) -> ParetoFront:
    """Return the front of measured models, among which the baseline and the obvious baselines are.

    Args:
        models: with a measurement each.
        profile: what is known of the network; tells the floor, and what holds the network back.
        limits: what a model must meet.
        where: the run directory.

    Raises:
        AutocompressError: the baseline was not measured.
    """
    baseline = next((m for m in models if m.role == BASELINE), None)
    if baseline is None:
        raise AutocompressError("the baseline was not measured yet, so there is nothing to compare to")
    path = "" if where is None else str(where)
    front = _front(baseline, decisive((m for m in models if m.role != BASELINE), limits), profile, limits, path)
    unchanged = everywhere([baseline])
    portfolio = []
    for alone in unchanged if len(unchanged) > 1 else ():
        place = alone.measurement.latency.place
        here = [m for m in everywhere(models) if m.role != BASELINE and m.measurement.latency.place == place]
        portfolio.append(replace(_front(alone, here, profile, limits, path), name=_name(place, unchanged)))
    return replace(front, portfolio=tuple(portfolio))


def _name(place: Deployment, unchanged: list[Model]) -> str:
    """Return what tells a place from the others at which the unchanged network was measured."""
    others = [m.measurement.latency.place for m in unchanged]
    if all(place.runtime == other.runtime for other in others):
        return place.device
    return place.runtime if all(place.device == other.device for other in others) else str(place)


def _front(baseline: Model, others: list[Model], profile: Profile | None, limits: Limits, where: str) -> ParetoFront:
    """Return the front of models beside a baseline; what is known of the floor is of one device."""
    chosen = [others[i] for i in select([m.measurement for m in others], limits)]
    front = ParetoFront(
        limits=limits,
        baseline=baseline,
        models=tuple(chosen),
        obvious=tuple(m for m in others if m.role != "front"),
        floor_ms=profile.floor_ms if profile and profile.device == baseline.measurement.latency.device else None,
        where=where,
    )
    held_back = () if profile is None else profile.reasons()
    nearest = front.recommended
    if front.meets_target or nearest is None:
        return front if nearest else replace(front, reasons=held_back)
    reasons = limits.reasons(nearest.measurement, [m.measurement for m in others])
    slow = limits.excesses(nearest.measurement)["latency"] > 0
    return replace(front, reasons=(*reasons, *(held_back if slow else ())))
