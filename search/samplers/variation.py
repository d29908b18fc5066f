"""Steps in a space: random points, children, neighbours, and making a point faster."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .encoding import EncodedSpace, LevelArray, Numbers

CROSSED = 0.35
"""Share of children that have two parents."""

SETTINGS = 0.5
"""Mean number of settings that a child changes."""

MOST_ODDS = 0.25
"""Highest probability of a choice to change, so that a child resembles its parents in small spaces too."""


class Moves:
    """Makes points of a space from others.

    Args:
        tables: the space.

    """

    def __init__(self, tables: EncodedSpace) -> None:
        self.tables = tables
        self._most = max(1, tables.compressing.sum()), max(1, (~tables.compressing).sum())

    def random(self, rng: np.random.Generator, count: int) -> LevelArray:
        """Return random points, each compressed as strongly as a random number says, shape (count, choices)."""
        sizes, compressing = self.tables.sizes, self.tables.compressing
        strength = np.where(compressing, rng.random((count, 1)), 1.0)
        levels = (rng.random((count, len(sizes))) * sizes * strength).astype(np.int64)
        return self.tables.canonical(np.minimum(levels, sizes - 1))

    def children(self, rng: np.random.Generator, first: LevelArray, second: LevelArray, rate: float) -> LevelArray:
        """Return a child of each pair of points: a mixture of them, or the first, with at least one choice changed.

        Args:
            rng: random number generator.
            first: shape (children, choices).
            second: the second parents of those children that have two.
            rate: mean number of compressing choices that change.

        """
        shape, sizes = first.shape, self.tables.sizes
        two = (rng.random(shape) < 0.5) & (rng.random((len(first), 1)) < CROSSED)
        child = np.where(two, second, first)
        live = self.tables.live(child) & (sizes > 1)
        odds = np.where(self.tables.compressing, rate / self._most[0], SETTINGS / self._most[1])
        change = live & (rng.random(shape) < np.minimum(odds, MOST_ODDS))
        lot = np.where(live, rng.random(shape), -1.0)
        change |= ~change.any(axis=1, keepdims=True) & live & (lot == lot.max(axis=1, keepdims=True))
        stepped = child + rng.choice([-2, -1, 1, 2], shape)
        stepped = np.where((stepped < 0) | (stepped >= sizes), np.where(child > 0, child - 1, child + 1), stepped)
        other = (child + 1 + (rng.random(shape) * (sizes - 1)).astype(np.int64)) % sizes  # settings have no order
        changed = np.where(self.tables.compressing, stepped, other)
        return self.tables.canonical(np.where(change, changed, child))

    def neighbours(self, point: LevelArray) -> LevelArray:
        """Return all points that differ from one by one level of one choice, or in one setting."""
        steps = []
        for i, size in enumerate(self.tables.sizes):
            levels = (point[i] - 1, point[i] + 1) if self.tables.compressing[i] else range(size)
            for level in levels:
                if 0 <= level < size and level != point[i]:
                    steps.append(np.where(np.arange(len(point)) == i, level, point))
        near = self.tables.canonical(np.array(steps, dtype=np.int64).reshape(-1, len(point)))
        others: LevelArray = near[(near != point).any(axis=1)]
        return others

    def fast_enough(
        self, rng: np.random.Generator, point: LevelArray, predict: Callable[[LevelArray], Numbers], most_ms: float
    ) -> LevelArray:
        """Return a point with random choices strengthened until its predicted latency is low enough."""
        (now_ms,) = predict(point[None])
        for i in rng.permutation(np.repeat(np.flatnonzero(self.tables.compressing), 3)):
            if now_ms <= most_ms:
                break
            if point[i] + 1 < self.tables.sizes[i]:
                stronger = point.copy()
                stronger[i] += 1
                (then_ms,) = predict(stronger[None])
                if then_ms < now_ms:
                    point, now_ms = stronger, then_ms
        fitting: LevelArray = self.tables.canonical(point[None])[0]
        return fitting
