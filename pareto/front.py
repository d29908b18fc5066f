"""The Pareto front of a study, with the baseline and the reference baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import AutocompressError
from ..evaluators.measurement import Deployment, Measurement
from ..profiles.profile import Profile
from ..studies.metric_units import unit_of
from .comparison_words import speed
from .dominance import knee, non_dominated
from .limits import Limits
from .model import BASELINE, Model, at_each_deployment, decisive, devices_in, fastest, no_worse
from .objectives import minimised

if TYPE_CHECKING:
    import pandas

SHOWN_COLUMNS = {
    "id": "model",
    "runtime": "runtime",
    "latency_ms": "ms",
    "latency_low_ms": "from",
    "latency_high_ms": "to",
    "accuracy": "validation",
    "test_accuracy": "test",
    "size_bytes": "bytes",
    "meets_target": "meets",
}
"""Columns of a front's table that a notebook shows, with their headings."""


@dataclass(frozen=True, kw_only=True)
class ParetoFront:
    """The outcome of a study.

    Attributes:
        limits: what a model must meet: the target latency and the other limits.
        baseline: the unchanged network.
        models: non-dominated models that meet the limits, fastest first; if none does, the nearest.
        references: the reference baselines, such as uniform INT8.
        floor_ms: latency of the fastest network that the space can express.
        reasons: what holds the network back, if no model meets the limits.
        portfolio: if a study has several deployments, the front of each one alone.
        name: in a portfolio, the runtime or the device of the deployment, or both.
        where: the run directory; empty if there is none.

    """

    limits: Limits
    baseline: Model
    models: tuple[Model, ...]
    references: tuple[Model, ...] = ()
    floor_ms: float | None = None
    reasons: tuple[str, ...] = ()
    portfolio: tuple[ParetoFront, ...] = ()
    name: str = ""
    where: str = field(default="", compare=False)

    @property
    def target_ms(self) -> float:
        """The latency that was asked for."""
        return self.limits.target_ms

    @property
    def unit(self) -> str:
        """The metric's unit: the task's own, or the one that fits the measured values; see `unit_of`."""
        measured = (m.measurement for m in (self.baseline, *self.models, *self.references))
        return unit_of(self.limits.unit, (value for each in measured for value in each.metrics))

    @property
    def meets_target(self) -> bool:
        """Whether any model, or the unchanged network, meets every limit."""
        return any(self.meets(model) for model in (*self.models, self.baseline))

    def meets(self, model: Model) -> bool:
        """Return whether a model meets every limit."""
        return self.limits.satisfied_by(model.measurement)

    @property
    def recommended(self) -> Model | None:
        """The fastest model that meets the limits and is no worse than the most accurate one; the nearest if none does.

        A model is no worse if it loses at most one standard error of their difference on the same examples, or nothing
        if the metric gives a single number: the best of many models owes some of its accuracy to chance (Breiman et
        al., Classification and Regression Trees, 1984, section 3.4.3). No other model that meets the limits is faster
        and as accurate. It is the unchanged network if nothing is better.
        """
        if not self.models:
            return None
        meeting = [m for m in self.models if self.meets(m)]
        candidates: list[Model] = [*(meeting or self.models), self.baseline]
        if not self.meets_target:
            return min(candidates, key=lambda m: self.limits.distance(m.measurement))
        if not meeting:
            return self.baseline
        best = max((m.measurement for m in meeting), key=lambda measured: measured.accuracy)
        fit = [m for m in candidates if self.meets(m)]
        least = fastest(m for m in fit if no_worse(m.measurement, best)).measurement.accuracy
        return fastest(m for m in fit if m.measurement.accuracy >= least)

    @property
    def most_accurate(self) -> Model | None:
        """The most accurate model that meets the limits, by however little; None if none does."""
        meeting = [m for m in self.models if self.meets(m)]
        return max(meeting, key=lambda m: m.measurement.accuracy, default=None)

    @property
    def knee(self) -> Model | None:
        """The model beyond which a loss in one objective gains less in the others; see `dominance.knee`.

        Only models that meet the limits count, if any does.
        """
        models = [m for m in self.models if self.meets(m)] or list(self.models)
        return models[knee(minimised(m.measurement for m in models))] if models else None

    def tied(self, model: Model) -> tuple[str, ...]:
        """Return the ids of the front's other models whose ratio's interval overlaps this one's."""
        latency = model.measurement.latency
        return tuple(m.id for m in self.models if m != model and m.measurement.latency.tied(latency))

    def to_pandas(self) -> pandas.DataFrame:
        """Return the baseline and the front as a table, with one row per model."""
        import pandas  # noqa: PLC0415  # start-up time: pandas is slow to import

        return pandas.DataFrame([_row(model, self.limits) for model in (self.baseline, *self.models)])

    def _repr_html_(self) -> str:
        """Return a sentence and a table for a notebook, with user text escaped."""
        best = self.recommended
        if best is None:
            sentence = f"No candidate could be measured completely, for {self.limits}."
        else:
            verb = "meets" if self.meets(best) else "is the nearest to"
            sentence = f"{best.id} {verb} {self.limits}: {speed(best.measurement.latency.ratio)}."
        table = self.to_pandas()[list(SHOWN_COLUMNS)].rename(columns=SHOWN_COLUMNS)
        return f"<p>{escape(sentence)}</p>" + str(table.to_html(index=False, border=0, float_format="{:.4g}".format))


def _row(model: Model, limits: Limits) -> dict[str, object]:
    measured = model.measurement
    by_device = reversed(model.measurements) if devices_in([model]) else ()
    return {
        "id": model.id,
        "runtime": measured.latency.runtime,
        "device": measured.latency.device,
        "meets_target": limits.satisfied_by(measured),
        "latency_ms": round(measured.latency.median_ms, 4),
        "latency_low_ms": round(measured.latency.low_ms, 4),
        "latency_high_ms": round(measured.latency.high_ms, 4),
        "latency_ratio": round(measured.latency.ratio, 4),
        "accuracy": measured.accuracy,
        "test_accuracy": measured.test_accuracy,
        "size_bytes": measured.size_bytes,
        "params": measured.params,
        "macs": measured.macs,
        "memory_bytes": measured.memory_bytes,
        "energy_mj": measured.energy_mj,
        "low_precision": None if measured.low_precision is None else round(measured.low_precision, 4),
        "rung": measured.rung,
        "path": model.path,
        "file": measured.file,
        "warnings": "; ".join(measured.warnings),
        **{f"latency_ms_{m.latency.device}": round(m.latency.median_ms, 4) for m in by_device},
    }


def select(measurements: Sequence[Measurement], limits: Limits) -> list[int]:
    """Return the positions of the front: the non-dominated among those that meet the limits, fastest first.

    If none meets them, the front has the non-dominated of all measurements, and the one nearest to the limits.
    """
    meeting = [i for i, m in enumerate(measurements) if limits.satisfied_by(m)]
    chosen = meeting or list(range(len(measurements)))
    if not chosen:
        return []
    keep = non_dominated(minimised(measurements[i] for i in chosen))
    front = {i for i, kept in zip(chosen, keep, strict=True) if kept}
    if not meeting:
        front.add(min(chosen, key=lambda i: limits.distance(measurements[i])))
    return sorted(front, key=lambda i: measurements[i].latency.median_ms)


def build_front(
    models: Sequence[Model], profile: Profile | None, limits: Limits, *, where: Path | None = None
) -> ParetoFront:
    """Return the front of measured models, which include the baseline and the reference baselines.

    Args:
        models: measured models.
        profile: what was learned about the network, for the floor and for what holds the network back.
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
    unchanged = at_each_deployment([baseline])
    portfolio = []
    for alone in unchanged if len(unchanged) > 1 else ():
        deployment = alone.measurement.deployment
        others = at_each_deployment(m for m in models if m.role != BASELINE)
        here = [m for m in others if m.measurement.deployment == deployment]
        portfolio.append(replace(_front(alone, here, profile, limits, path), name=_name(deployment, unchanged)))
    return replace(front, portfolio=tuple(portfolio))


def _name(deployment: Deployment, unchanged: list[Model]) -> str:
    """Return the part of a deployment's name that differs from the others in which the baseline was measured."""
    others = [m.measurement.deployment for m in unchanged]
    if all(deployment.runtime == other.runtime for other in others):
        return deployment.device
    same_device = all(deployment.device == other.device for other in others)
    return deployment.runtime if same_device else str(deployment)


def _front(baseline: Model, others: list[Model], profile: Profile | None, limits: Limits, where: str) -> ParetoFront:
    """Return the front of models in one deployment, or in those that decide; the floor is that of one device."""
    chosen = [others[i] for i in select([m.measurement for m in others], limits)]
    front = ParetoFront(
        limits=limits,
        baseline=baseline,
        models=tuple(chosen),
        references=tuple(m for m in others if m.role != "front"),
        floor_ms=profile.floor_ms if profile and profile.device == baseline.measurement.latency.device else None,
        where=where,
    )
    held_back = () if profile is None else profile.reasons()
    nearest = front.recommended
    if front.meets_target or nearest is None:
        return front if nearest else replace(front, reasons=held_back)
    reasons = limits.reasons(nearest.measurement, [m.measurement for m in others])
    slow = limits.violations(nearest.measurement)["latency"] > 0
    return replace(front, reasons=(*reasons, *(held_back if slow else ())))
