"""Inheritance: a candidate starts from the trained weights of a neighbour of which it is a narrower version."""

from __future__ import annotations

from collections.abc import Iterable

from ..pareto.model import Model
from ..spaces.candidate import PRUNING_RATIO, RANK, SPARSITY, Candidate

NEAR = 0.5
"""An ancestor has at least this share of the candidate's pruning; otherwise the original is the better start."""


def ancestor_of(candidate: Candidate, models: Iterable[Model]) -> Model | None:
    """Return the trained model that a candidate may start from: it has all channels of the candidate.

    Of several, the one that lacks least pruning, and of equals the most accurate. Models with other layers than the
    original (factors, zeros) are never ancestors.

    Args:
        candidate: the candidate to build.
        models: measured models.

    """
    wanted = {name: float(ratio) for name, ratio in candidate[PRUNING_RATIO].items()}

    def missing(model: Model) -> float:
        return sum(wanted.values()) - sum(float(ratio) for ratio in model.candidate[PRUNING_RATIO].values())

    fit = [m for m in models if _holds(m, wanted) and missing(m) <= (1 - NEAR) * sum(wanted.values())]
    return min(fit, key=lambda m: (missing(m), -m.measurement.accuracy), default=None)


def _holds(model: Model, wanted: dict[str, float]) -> bool:
    """Return whether a model was trained and is nowhere pruned more than wanted."""
    has = model.candidate[PRUNING_RATIO]
    if not has or not model.measurement.epochs or model.candidate[RANK] or model.candidate[SPARSITY]:
        return False
    return all(float(ratio) <= wanted.get(name, 0.0) for name, ratio in has.items())
