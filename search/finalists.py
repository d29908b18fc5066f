"""Chooses the models for the final evaluation: first some of the best now, then those that may become the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..evaluators.measurement import Measurement
from ..evaluators.promotion import line
from ..pareto.front import select
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model, devices_in, on_device
from ..pareto.objectives import front_hypervolume

FINALISTS = 8
"""How many models of the front get the final evaluation."""

ALONE = 4
"""How many models of the front on one of several devices are finally evaluated, if the common front lacks them."""


FIRST = FINALISTS // 2
"""How many models of the front are trained longer before the effect of that is known."""

ENOUGH = 3
"""Models that need both trainings before the accuracies of others are predicted."""


def finalists(models: Sequence[Model], limits: Limits, count: int = FINALISTS) -> list[Model]:
    """Return the first models for the final evaluation: the baselines and the best of the front.

    The front's most accurate model comes first, then always the one that adds most hypervolume; of equals, the more
    accurate. If none meets the limits, the nearest come first. With several devices, a few come from each device's own
    front. Without a baseline there is nothing to compare with, and the result is empty.
    """
    baseline = next((m.measurement for m in models if m.role == BASELINE), None)
    if baseline is None:
        return []
    chosen = {m.id: m for m in _best(models, baseline, limits, count)}
    for device in devices_in(models):
        here = on_device(models, device)
        base = next(m.measurement for m in here if m.role == BASELINE)
        chosen |= {m.id: m for m in models if m.id in {best.id for best in _best(here, base, limits, ALONE)}}
    return [m for m in models if m.role != "front"] + list(chosen.values())


def likely_finalists(models: Sequence[Model], ended: Mapping[str, float], limits: Limits) -> list[Model]:
    """Return the next models for the final evaluation: those that would then add most hypervolume.

    The effect of longer training on the first models predicts its effect on the others, including dominated ones:
    accuracies after it lie near a line over those before. A strongly compressed network gains most.

    Args:
        models: all measured models.
        ended: final accuracies of the first models, by their ids.
        limits: see `finalists`.

    """
    baseline = next((m.measurement for m in models if m.role == BASELINE), None)
    if baseline is None:
        return []
    trained = [m for m in models if m.id in ended and m.measurement.epochs]
    pairs = [(m.measurement.accuracy, ended[m.id]) for m in trained]
    slope, intercept, _ = line(pairs) if len(pairs) >= ENOUGH else (1.0, 0.0, 0.0)
    known = [replace(m.measurement, accuracy=ended[m.id]) for m in models if m.id in ended]
    rest = [m for m in models if m.role == "front" and m.id not in ended]
    predicted = [
        replace(m.measurement, accuracy=max(m.measurement.accuracy, intercept + slope * m.measurement.accuracy))
        for m in rest
    ]
    taken = [m for m in known if limits.satisfied_by(m)]
    left = {i - len(known) for i in select([*known, *predicted], limits)} & {
        i for i, m in enumerate(predicted) if limits.satisfied_by(m)
    }
    chosen: set[int] = set()
    volume = front_hypervolume(taken, baseline, limits.target_ms)
    while left and len(chosen) < FINALISTS - FIRST:
        volumes = {i: front_hypervolume([*taken, predicted[i]], baseline, limits.target_ms) for i in sorted(left)}
        best = max(volumes, key=lambda i: volumes[i])
        if volumes[best] <= volume:
            break
        volume = volumes[best]
        left.remove(best)
        chosen.add(best)
        taken.append(predicted[best])
    return [m for i, m in enumerate(rest) if i in chosen]


def too_slow_for_sure(models: Sequence[Model], limits: Limits) -> list[Model]:
    """Return the finalists that need no final evaluation: reference baselines that are certainly too costly.

    Training does not make them faster, so they keep their trials' results for comparison. If no model meets the limits,
    each may be the nearest, and all are evaluated.
    """
    if not any(limits.satisfied_by(m.measurement) for m in models if m.role != BASELINE):
        return []
    references = [m for m in models if m.role not in ("front", BASELINE)]
    return [m for m in references if all(map(limits.surely_violated_by, m.measurements))]


def _best(models: Sequence[Model], baseline: Measurement, limits: Limits, count: int) -> list[Model]:
    """Return this many models of a front; see `finalists`."""
    front = [models[i] for i in select([m.measurement for m in models], limits)]
    rest = sorted((m for m in front if m.role == "front"), key=lambda m: -m.measurement.accuracy)
    if not any(limits.satisfied_by(m.measurement) for m in front):
        rest.sort(key=lambda m: limits.distance(m.measurement))
    chosen = rest[:1]
    while len(chosen) < min(count, len(rest)):
        taken = [m.measurement for m in chosen]
        left = [m for m in rest if m not in chosen]
        chosen.append(max(left, key=lambda m: front_hypervolume([*taken, m.measurement], baseline, limits.target_ms)))
    return chosen
