"""Which models are taken to the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluators.measurement import Measurement
from .expectation import FINALISTS
from .front import Model, devices_in, front_hypervolume, on_device, select
from .limits import Limits
from .warmstart import BASELINE

ALONE = 4
"""How many of the front on one of several devices are taken to the end, if the front on all has not got them."""


def finalists(models: Sequence[Model], limits: Limits) -> list[Model]:
    """Return the models to take to the end: the baseline, the obvious baselines, and the best part of the front.

    The front's most accurate model comes first, then always the one that adds most hypervolume; of equals, the
    more accurate. Where none meets the limits, the nearest come first. Where there are several devices, a few come from
    the front on each alone. Without a baseline there is nothing to compare to, and nothing is returned.
    """
    baseline = next((m.measurement for m in models if m.role == BASELINE), None)
    if baseline is None:
        return []
    chosen = {m.id: m for m in _best(models, baseline, limits, FINALISTS)}
    for device in devices_in(models):
        here = on_device(models, device)
        base = next(m.measurement for m in here if m.role == BASELINE)
        chosen |= {m.id: m for m in models if m.id in {best.id for best in _best(here, base, limits, ALONE)}}
    return [m for m in models if m.role != "front"] + list(chosen.values())


def surely_late(models: Sequence[Model], limits: Limits) -> list[Model]:
    """Return those of the finalists that need not go to the end: obvious baselines that cost too much for sure.

    No training makes them faster, so they stand for comparison as their trials left them. Where no model meets the
    limits, each may be the nearest, and all are taken to the end.
    """
    if not any(limits.met(m.measurement) for m in models if m.role != BASELINE):
        return []
    obvious = [m for m in models if m.role not in ("front", BASELINE)]
    return [m for m in obvious if all(map(limits.cuts, m.measurement.everywhere))]


def _best(models: Sequence[Model], baseline: Measurement, limits: Limits, count: int) -> list[Model]:
    """Return so many models of a front; see `finalists`."""
    front = [models[i] for i in select([m.measurement for m in models], limits)]
    rest = sorted((m for m in front if m.role == "front"), key=lambda m: -m.measurement.accuracy)
    if not any(limits.met(m.measurement) for m in front):
        rest.sort(key=lambda m: limits.distance(m.measurement))
    chosen = rest[:1]
    while len(chosen) < min(count, len(rest)):
        taken = [m.measurement for m in chosen]
        left = [m for m in rest if m not in chosen]
        chosen.append(max(left, key=lambda m: front_hypervolume([*taken, m.measurement], baseline, limits.target_ms)))
    return chosen
