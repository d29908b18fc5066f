"""Samplers: where the next candidate comes from. All are Optuna samplers; `create` knows them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from ...spaces.space import Space
    from .mutation import Predict


def create(name: str, *, space: Space, target_ms: float, seed: int, finished: int, predict: Predict) -> BaseSampler:
    """Return a sampler by its name on the command line.

    Args:
        name: ``mutation``, ``tpe``, ``nsga2`` or ``random``.
        space: what may vary.
        target_ms: the latency constraint, in milliseconds.
        seed: of everything random.
        finished: number of trials that the study has already; Optuna's samplers begin a fresh stream there.
        predict: predicts a candidate's latency in milliseconds.

    """
    from optuna import samplers

    from .mutation import MutationSampler

    if name == "mutation":
        return MutationSampler(space, predict=predict, target_ms=target_ms, seed=seed)
    stream = seed + 100_003 * finished
    if name == "tpe":
        return samplers.TPESampler(seed=stream, multivariate=True, constant_liar=True)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=stream, population_size=20)
    if name == "random":
        return samplers.RandomSampler(seed=stream)
    raise ValueError(f"no sampler is called {name!r}")
