"""Makes a Pareto front of measured models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import AutocompressError
from .front import Model, ParetoFront, everywhere, select
from .limits import Limits
from .profile import Profile
from .warmstart import BASELINE


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
    place = "" if where is None else str(where)
    front = _front(baseline, everywhere(m for m in models if m.role != BASELINE), profile, limits, place)
    names = [measured.latency.runtime for measured in baseline.measurement.everywhere]
    if len(names) < 2:
        return front
    measured = everywhere(models)
    portfolio = []
    for name in names:
        here = [m for m in measured if m.measurement.latency.runtime == name]
        alone = next(m for m in here if m.role == BASELINE)
        portfolio.append(_front(alone, [m for m in here if m.role != BASELINE], profile, limits, place))
    return replace(front, portfolio=tuple(portfolio))


def _front(baseline: Model, others: list[Model], profile: Profile | None, limits: Limits, where: str) -> ParetoFront:
    """Return the front of models beside a baseline."""
    chosen = [others[i] for i in select([m.measurement for m in others], limits)]
    front = ParetoFront(
        limits=limits,
        baseline=baseline,
        models=tuple(chosen),
        obvious=tuple(m for m in others if m.role != "front"),
        floor_ms=None if profile is None else profile.floor_ms,
        where=where,
    )
    held_back = () if profile is None else profile.reasons()
    nearest = front.recommended
    if front.meets_target or nearest is None:
        return front if nearest else replace(front, reasons=held_back)
    reasons = limits.reasons(nearest.measurement, [m.measurement for m in others])
    slow = limits.excesses(nearest.measurement)["latency"] > 0
    return replace(front, reasons=(*reasons, *(held_back if slow else ())))
