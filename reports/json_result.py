"""The result of a run as plain data for a program, like the table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..pareto.front import ParetoFront
from ..pareto.model import Model


def as_data(front: ParetoFront, where: str) -> dict[str, Any]:
    """Return a front for JSON; a model has the fields of ``pareto.csv``, and its path is relative to ``run``."""
    best = front.recommended
    return {
        "run": where,
        "target": str(front.limits),
        "target_ms": front.target_ms,
        "meets_target": front.meets_target,
        "metric_unit": front.unit,
        "recommended": None if best is None else best.id,
        "baseline": _models(front, ())[0],
        "models": _models(front, front.models)[1:],
        "obvious": _models(front, front.references)[1:],
        "floor_ms": front.floor_ms,
        "reasons": [reason.strip() for reason in front.reasons],
        "portfolio": [as_data(alone, where) for alone in front.portfolio],
    }


def _models(front: ParetoFront, models: tuple[Model, ...]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = replace(front, models=models).to_pandas().to_dict("records")
    return rows
