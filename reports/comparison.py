"""Compares two runs: their fronts on one scale, which models the other dominates, and the differences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..evaluators.measurement import Measurement
from ..pareto.dominance import Points, hypervolume
from ..pareto.front import ParetoFront
from ..pareto.model import Model
from ..pareto.objectives import LOSS, minimised, reference_accuracy, relative
from ..storage.run import Run
from ..studies.metric_units import noun, shown

MILLISECONDS, RATIOS = "milliseconds", "ratios"
"""How fronts are compared: in milliseconds, or each relative to its own run's unchanged network."""

SAME_CONDITIONS = ("runtime", "threads", "batch", "percentile", "device", "sizes")
"""Fields of a study's identity that describe how it was measured."""

PLACES = 9
"""Decimal places of compared values, so that a model in another unit is not better than itself."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One run of a comparison.

    Attributes:
        run: the run.
        front: its front, for its own limits.
        points: objectives of the front's models, to be minimised, shape (models, 3): lost accuracy, latency, size. An
            ideal model is at zero, the reference point at one.
        hypervolume: the hypervolume of these points up to the reference point.
        dominated: for each dominated model, by id and deployment, the id of a model of the other run that dominates it.
    """

    run: Run
    front: ParetoFront
    points: Points
    hypervolume: float
    dominated: dict[tuple[str, str], str]

    def by(self, model: Model) -> str:
        """Return the id of a model of the other run that dominates this model; empty if none does."""
        return self.dominated.get(_key(model), "")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two compared runs.

    Attributes:
        a: the first run.
        b: the second.
        by: how latencies are compared, in `MILLISECONDS` or as `RATIOS` to each run's unchanged network.
        scale: the box that hypervolumes are shares of, in words.
        warnings: the differences between the runs, one sentence each.
    """

    a: Side
    b: Side
    by: str
    scale: str
    warnings: tuple[str, ...] = ()

    @property
    def ratio(self) -> float | None:
        """The second run's hypervolume divided by the first one's; None if that is zero."""
        return self.b.hypervolume / self.a.hypervolume if self.a.hypervolume else None


def compare(a: Run, b: Run) -> Comparison:
    """Compare the fronts of two runs.

    Compares milliseconds if both runs were measured in the same way on the same machine and the unchanged network took
    the same time. Otherwise each model counts relative to the unchanged network of its own run.

    Args:
        a: the first run, as `open_run` returns it.
        b: the second run.

    Raises:
        RunDirectoryError: a run has no baseline yet.
    """
    fronts = a.front(), b.front()
    apart = [*_measured_otherwise(a, b, *fronts), *_timed_otherwise(*fronts)]
    by = RATIOS if apart else MILLISECONDS
    scaled, scale = _scaled(*fronts, by)
    points = [np.round(each, PLACES) for each in scaled]
    reference = np.ones(3)
    dominated = [_dominated(fronts[i], fronts[1 - i], points[i], points[1 - i]) for i in (0, 1)]
    sides = [
        Side(
            run=run,
            front=fronts[i],
            points=points[i],
            hypervolume=hypervolume(np.maximum(points[i], 0.0), reference),
            dominated=dominated[i],
        )
        for i, run in enumerate((a, b))
    ]
    warnings = (*apart, *_of_other_networks(*fronts))
    return Comparison(a=sides[0], b=sides[1], by=by, scale=scale, warnings=warnings)


def _measured_otherwise(a: Run, b: Run, one: ParetoFront, other: ParetoFront) -> Iterator[str]:
    """Yield the differences in how two runs were measured."""
    for name in SAME_CONDITIONS:
        mine, theirs = a.identity.get(name, ""), b.identity.get(name, "")
        if mine != theirs:
            yield f"The {name} differs: {mine or 'none'} in A, {theirs or 'none'} in B."
    first, second = (front.baseline.measurement.latency.environment for front in (one, other))
    for name in ("cpu", *(name for name in first if name in a.identity["runtime"])):
        if first.get(name) != second.get(name):
            yield f"The {name} differs: {first.get(name, 'unknown')} in A, {second.get(name, 'unknown')} in B."


def _timed_otherwise(one: ParetoFront, other: ParetoFront) -> Iterator[str]:
    """Yield that the same network took a different time: the milliseconds come from two states of a machine."""
    mine, theirs = one.baseline.measurement, other.baseline.measurement
    if _network(mine) == _network(theirs) and not mine.latency.tied(theirs.latency):
        took = f"{mine.latency.median_ms:.3g} ms in A, {theirs.latency.median_ms:.3g} ms in B"
        yield f"The same unchanged network took a different time: {took}."


def _of_other_networks(one: ParetoFront, other: ParetoFront) -> Iterator[str]:
    """Yield the differences between the unchanged networks."""
    mine, theirs = one.baseline.measurement, other.baseline.measurement
    if _network(mine) != _network(theirs):
        sizes = f"{mine.params / 1e6:.3g} million parameters in A, {theirs.params / 1e6:.3g} in B"
        yield f"The unchanged networks differ: {sizes}."
    elif mine.accuracy != theirs.accuracy:
        values = f"{shown(mine.accuracy, one.unit)} in A, {shown(theirs.accuracy, other.unit)} in B"
        yield f"The unchanged networks differ on the validation data: {values}."
    if one.unit != other.unit:
        yield f"The metric's unit differs: {one.unit or 'none'} in A, {other.unit or 'none'} in B."


def _network(measured: Measurement) -> tuple[int, int]:
    return measured.params, measured.macs


def _scaled(one: ParetoFront, other: ParetoFront, by: str) -> tuple[tuple[Points, Points], str]:
    """Return both fronts' points, scaled to an ideal model at 0 and the reference at 1, and the reference in words."""
    fronts = one, other
    bases = [front.baseline.measurement for front in fronts]
    points = [minimised(m.measurement for m in front.models) for front in fronts]
    if by == RATIOS:
        scaled = [
            relative(these, accuracy=base.accuracy, latency_ms=base.latency.median_ms, size_bytes=base.size_bytes)
            for these, base in zip(points, bases, strict=True)
        ]
        less = f"{LOSS:.0%} of its {noun(one.unit)} less"
        words = f"{less}, its latency and its size, all relative to the run's own unchanged network"
        return (scaled[0], scaled[1]), words
    best = max(base.accuracy for base in bases)
    target_ms = max(front.target_ms for front in fronts)
    size = max(base.size_bytes for base in bases)
    scaled = [relative(these, accuracy=best, latency_ms=target_ms, size_bytes=size) for these in points]
    least = f"{shown(reference_accuracy(best), one.unit)} {noun(one.unit)}"
    return (scaled[0], scaled[1]), f"{least}, {target_ms:g} ms, {size / 1e6:.3g} MB"


def _dominated(front: ParetoFront, other: ParetoFront, mine: Points, theirs: Points) -> dict[tuple[str, str], str]:
    """Return, for each model that the other front dominates, one that dominates it, by medians."""
    found = {}
    for model, point in zip(front.models, mine, strict=True):
        better = (theirs <= point).all(axis=1) & (theirs < point).any(axis=1)
        if better.any():
            found[_key(model)] = other.models[int(np.flatnonzero(better)[theirs[better].sum(axis=1).argmin()])].id
    return found


def _key(model: Model) -> tuple[str, str]:
    return model.id, str(model.measurement.deployment)
