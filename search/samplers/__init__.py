"""Samplers, which propose the next candidate. All are Optuna samplers; `create` finds them by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from ...profiles.profile import Profile
    from ...spaces.space import Space
    from .history import FeasibilityRule


def create(
    name: str, *, space: Space, profile: Profile, judge: FeasibilityRule, seed: int, finished: int
) -> BaseSampler:
    """Return a sampler by its name on the command line.

    Args:
        name: ``surrogate``, ``mutation``, ``tpe``, ``nsga2`` or ``random``.
        space: what may vary.
        profile: what is known of the network.
        judge: knows the current limits, and which trials meet them: the study's store.
        seed: random seed.
        finished: number of finished trials; Optuna's samplers start a fresh random stream there.

    """
    from optuna import samplers  # noqa: PLC0415  # start-up time: Optuna is slow to import

    from .encoding import EncodedSpace  # noqa: PLC0415  # start-up time: Optuna is slow to import
    from .mutation import MutationSampler  # noqa: PLC0415  # start-up time: Optuna is slow to import
    from .surrogate import SurrogateSampler  # noqa: PLC0415  # start-up time: Optuna is slow to import

    if name == "surrogate":
        return SurrogateSampler(EncodedSpace(space, profile), judge, seed=seed)
    if name == "mutation":
        return MutationSampler(EncodedSpace(space, profile), judge, seed=seed)
    stream = seed + 100_003 * finished
    if name == "tpe":
        return samplers.TPESampler(seed=stream, multivariate=True, constant_liar=True)
    if name == "nsga2":
        return samplers.NSGAIISampler(seed=stream, population_size=20)
    if name == "random":
        return samplers.RandomSampler(seed=stream)
    raise ValueError(f"no sampler is called {name!r}")
