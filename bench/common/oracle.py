"""The best that an imaginary problem holds, found by looking at what is true: an evolution toward many directions.

Each of many weightings of the objectives has a point of its own, which children of its neighbours replace where they
are better (MOEA/D: Zhang and Li, IEEE TEC 2007). A search never sees any of this.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from common.problems import Problem
from numpy.typing import NDArray

from autocompress.pareto.dominance import hypervolume
from autocompress.profiles.profile import Profile
from autocompress.search.samplers.encoding import EncodedSpace
from autocompress.search.samplers.initial_design import warm_start
from autocompress.search.samplers.variation import Moves

DIRECTIONS, NEIGHBOURS, GENERATIONS = 300, 12, 1500

Array = NDArray[np.float64]


@cache
def best_volume(family: str, seed: int, target_ms: float, generations: int = GENERATIONS) -> float:
    """Return the hypervolume of the best front that was found for a problem."""
    problem = Problem(family, seed)
    profile = Profile.from_dict(problem.profile())
    tables = EncodedSpace(problem.space, profile)
    moves, rng = Moves(tables), np.random.default_rng(seed)
    weights = np.maximum(rng.dirichlet(np.ones(3), DIRECTIONS), 1e-3)
    near = ((weights[:, None] - weights) ** 2).sum(-1).argsort(axis=1)[:, :NEIGHBOURS]
    starts = [problem.levels(start.candidate) for start in warm_start(problem.space, profile, target_ms)]
    points = np.concatenate([*starts, moves.random(rng, DIRECTIONS)])
    found = problem.box(points, target_ms)
    points = points[[int(_worse(found, weight).argmin()) for weight in weights]]
    values = _worse(problem.box(points, target_ms), weights)
    everyone = np.arange(DIRECTIONS)
    for generation in range(generations):
        first, second = (near[everyone, rng.integers(NEIGHBOURS, size=DIRECTIONS)] for _ in range(2))
        children = moves.children(rng, points[first], points[second], 3.0 if generation % 2 else 1.5)
        box = problem.box(children, target_ms)
        for column in rng.permutation(NEIGHBOURS)[: NEIGHBOURS // 2]:
            places = near[:, column]
            worth = _worse(box, weights[places])
            for i in np.flatnonzero(worth < values[places]):
                if worth[i] < values[places[i]]:
                    points[places[i]], values[places[i]] = children[i], worth[i]
    return hypervolume(problem.box(points, target_ms), np.ones(3))


def _worse(box: Array, weights: Array) -> Array:
    """Return the weighted largest objective (Chebyshev), and more for what lies outside of the box."""
    beyond = np.maximum(box - 1, 0)
    value: Array = (box * weights).max(axis=1) + 0.05 * (box * weights).sum(axis=1) + 20 * beyond.sum(axis=1)
    return value
