"""Inheritance: a candidate starts from the trained weights of a neighbour of which it is a smaller version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..pareto.model import Model
from ..spaces.candidate import ACTIVATION, DEPTH, PRUNING_RATIO, RANK, RESOLUTION, SPARSITY, Candidate

NEAR = 0.5
"""An ancestor has at least this share of the candidate's pruning; otherwise the original is the better start."""

SAME_SHAPES = (ACTIVATION, RESOLUTION)
"""Axes that change no shape of a weight, and whose changes a network is trained with from the start."""


def ancestor_of(candidate: Candidate, models: Iterable[Model]) -> Model | None:
    """Return the trained model that a candidate may start from: it has all branches and channels of the candidate.

    Of several, the one that lacks least pruning, and of equals the most accurate. A branch that goes counts as much as
    all channels of a group. Models with layers that the original lacks (factors, zeros) are never ancestors, nor are
    those with cheaper activation functions or smaller images where the candidate has the original ones.

    Args:
        candidate: the candidate to build.
        models: measured models.

    """
    wanted = _removed(candidate)

    def missing(model: Model) -> float:
        return sum(wanted.values()) - sum(_removed(model.candidate).values())

    alike = [m for m in models if all(m.candidate[axis].keys() <= candidate[axis].keys() for axis in SAME_SHAPES)]
    fit = [m for m in alike if _holds(m, wanted) and missing(m) <= (1 - NEAR) * sum(wanted.values())]
    return min(fit, key=lambda m: (missing(m), -m.measurement.accuracy), default=None)


def hands_on(model: Model) -> bool:
    """Return whether a model was changed in float and trained, and has no layers that the original lacks."""
    changed = _removed(model.candidate) or any(model.candidate[axis] for axis in SAME_SHAPES)
    other = model.candidate[RANK] or model.candidate[SPARSITY]
    return bool(changed and model.measurement.epochs and not other)


def _removed(candidate: Candidate) -> dict[tuple[str, str], float]:
    """Return what a candidate removes: the share of each group's channels, and of each branch all."""
    pruned = {(PRUNING_RATIO, name): float(ratio) for name, ratio in candidate[PRUNING_RATIO].items()}
    return pruned | {(DEPTH, name): 1.0 for name in candidate[DEPTH]}


def _holds(model: Model, wanted: Mapping[tuple[str, str], float]) -> bool:
    """Return whether a model can hand on its weights and nowhere has less than wanted."""
    return hands_on(model) and all(ratio <= wanted.get(name, 0.0) for name, ratio in _removed(model.candidate).items())
