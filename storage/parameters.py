"""A space as Optuna distributions."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, IntDistribution

from ..spaces.space import Space


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's description of a space: one integer per choice, the index of its level."""
    return {name: IntDistribution(0, size - 1) for name, size in space.sizes.items()}
