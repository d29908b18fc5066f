"""Where to look when proposals turn out too costly: around the nearest points, and on the way to the floor."""

from __future__ import annotations

import numpy as np

from ...pareto.limits import Limits
from ...profiles.cost_model import LAYER_AXES
from .encoding import EncodedSpace, LevelArray, Numbers
from .history import History
from .variation import Moves

MISSES = 3
"""Trials in a row over a limit, after which every second proposal comes from here."""

NEAREST = 3
"""How many measured points are explored around."""

STEPS = (0.25, 0.5, 0.75)
"""Shares of the choices that take the floor's levels, on the way to it."""


def excess(history: History, limits: Limits) -> Numbers:
    """Return each trial's largest excess over a limit, as a share of that limit, among the measured costs.

    At most 0 means met; NaN means that nothing was measured. Shape (trials,).
    """
    costs = [(history.high_ms, limits.target_ms), (history.size_bytes, limits.max_size_bytes)]
    costs += [(history.memory_bytes, limits.max_memory_bytes), (history.energy_mj, limits.max_energy_mj)]
    shares = np.stack([cost / most - 1 for cost, most in costs if most is not None])
    worst: Numbers = np.fmax.reduce(shares)
    return worst


def misses(history: History, limits: Limits) -> int:
    """Return how many of the latest measured trials in a row were over a limit."""
    known = excess(history, limits)
    met = np.flatnonzero(known[np.isfinite(known)] <= 0)
    return int(np.isfinite(known).sum() - (met[-1] + 1 if len(met) else 0))


def around(rng: np.random.Generator, moves: Moves, history: History, limits: Limits) -> LevelArray:
    """Return points to try, shape (points, choices).

    These are the neighbours of the measured points nearest to the limits; the same points without one axis, or with one
    level of it for all layers; and points between them and the floor.
    """
    known, floor = np.abs(excess(history, limits)), moves.tables.floor
    found = [floor[None]]
    for point in history.levels[np.argsort(known, kind="stable")[:NEAREST]]:
        there = np.where(rng.random((len(STEPS), len(point))) < np.array(STEPS)[:, None], floor, point)
        found += [moves.neighbours(point), twins(moves.tables, point), there]
    return np.unique(moves.tables.canonical(np.concatenate(found)), axis=0)


def twins(tables: EncodedSpace, point: LevelArray) -> LevelArray:
    """Return a point with one level of one axis for all layers, for each axis and level."""
    found = []
    for axis in LAYER_AXES:
        choices = list(tables.space.on(axis))
        about = np.array([choice.axis == axis for choice in tables.space.choices])
        for value in dict.fromkeys(level for choice in choices for level in choice.levels):
            same = [choice.levels.index(value) if value in choice.levels else 0 for choice in choices]
            twin = point.copy()
            twin[about] = same
            found.append(twin)
    return np.array(found, dtype=np.int64).reshape(-1, len(point))
