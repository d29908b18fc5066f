"""Finds the least predicted damage within a latency: a multiple-choice knapsack.

Latency is a product over the choices of a layer, so the knapsack is solved for the effect of each choice alone, around
a point; then around the solution, until nothing improves (successive linear programming: Griffith and Stewart,
Management Science 1961). HiGHS solves it, through SciPy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from .encoding import EncodedSpace, LevelArray

ROUNDS = 6
REACH = 3
"""Most levels by which a choice may change in a round; farther away, its effect alone says little."""

GAP = 0.005
"""Largest relative gap of a round's solution to the best one."""

SECONDS = 2.0
"""After this time the best solution so far is used."""


def least_damage(tables: EncodedSpace, start: Mapping[str, int], target_ms: float) -> dict[str, int]:
    """Return the levels with the least damage found that meet a latency, or the start if none is better.

    Settings stay unchanged.

    Args:
        tables: the space and its profile.
        start: levels to start from.
        target_ms: the latency, as predicted by the profile.

    """
    (best,) = point = tables.row(start)
    for _ in range(ROUNDS):
        solved = _solved(tables, point, target_ms)
        if solved is None:
            break
        if _better(tables, solved, best[None], target_ms):
            (best,) = solved
        if (solved == point).all():
            break
        point = solved
    return tables.levels(best)


def _better(tables: EncodedSpace, point: LevelArray, than: LevelArray, target_ms: float) -> bool:
    """Return whether a point is nearer to the target, or has less damage if both meet it."""
    excess = [max(0.0, float(tables.latency_ms(each)[0]) - target_ms) for each in (point, than)]
    damage = [_damage(tables, each) for each in (point, than)]
    return (excess[0], damage[0]) < (excess[1], damage[1])


def _damage(tables: EncodedSpace, point: LevelArray) -> float:
    return float(tables.damage[np.arange(point.shape[1]), point[0]].sum())


def _solved(tables: EncodedSpace, point: LevelArray, target_ms: float) -> LevelArray | None:
    """Return the solution of the knapsack around a point; None if there is none."""
    options = [
        (choice, level)
        for choice in np.flatnonzero(tables.compressing)
        for level in range(tables.sizes[choice])
        if abs(level - point[0, choice]) <= REACH
    ]
    choices, levels = np.array(options).T
    changed = np.repeat(point, len(options), axis=0)
    changed[np.arange(len(options)), choices] = levels
    (now_ms,) = tables.latency_ms(point)
    saved_ms = tables.latency_ms(changed) - now_ms
    kinds, rows = np.unique(choices, return_inverse=True)
    one_each = csr_array((np.ones(len(options)), (rows, np.arange(len(options)))))
    found = milp(
        tables.damage[choices, levels],
        integrality=np.ones(len(options)),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, np.ones(len(kinds)), np.ones(len(kinds))),
            LinearConstraint(saved_ms[None], ub=target_ms - now_ms),
        ],
        options={"time_limit": SECONDS, "mip_rel_gap": GAP},
    )
    if found.x is None:
        return None
    solved = point.copy()
    taken = found.x > 0.5
    solved[0, choices[taken]] = levels[taken]
    return tables.canonical(solved)
