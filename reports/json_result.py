"""The result of a run as plain data for a program, like the table."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def finite(data: Any) -> Any:
    """Return plain data with None for numbers that are not finite, and text for paths.

    >>> finite({"ms": float("nan"), "sizes": (1, 2.5)})
    {'ms': None, 'sizes': [1, 2.5]}
    """
    if isinstance(data, Mapping):
        return {str(name): finite(each) for name, each in data.items()}
    if isinstance(data, list | tuple):
        return [finite(each) for each in data]
    if isinstance(data, os.PathLike):
        return os.fspath(data)
    return None if isinstance(data, float) and not math.isfinite(data) else data
