"""The hypervolume that points would add to a front, for many points at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...pareto.dominance import non_dominated

Points = NDArray[np.float64]


class Improvement:
    """The volume of the unit box that points would add to those that a front of three objectives dominates.

    The box is cut into slices along the last objective; in each, the front is a staircase in the other two
    (compare Lacour, Klamroth and Fonseca, A box decomposition algorithm to compute the hypervolume indicator, 2017).

    Args:
        front: shape (points, 3), to be minimised; points outside the unit box do not count.

    >>> Improvement(np.array([[0.5, 0.5, 0.5]]))(np.array([[0.25, 0.5, 0.5], [0.6, 0.6, 0.6]])).tolist()
    [0.0625, 0.0]

    """

    def __init__(self, front: Points) -> None:
        front = np.maximum(front.reshape(-1, 3), 0.0)
        front = front[(front < 1).all(1)]
        front = np.unique(front[non_dominated(front)], axis=0) if len(front) else front
        front = front[np.argsort(front[:, 2], kind="stable")]
        count = len(front)
        self._bottoms = np.concatenate([[0.0], front[:, 2]])
        self._tops = np.concatenate([front[:, 2], [1.0]])
        by_first = np.argsort(front[:, 0], kind="stable")
        self._steps = np.concatenate([[0.0], front[by_first, 0], [1.0]])
        present = np.argsort(np.argsort(front[:, 2], kind="stable"))[by_first]  # slice after which a step is there
        heights = np.where(present[None] < np.arange(count + 1)[:, None], front[by_first, 1][None], 1.0)
        self._heights = np.minimum.accumulate(np.concatenate([np.ones((count + 1, 1)), heights], axis=1), axis=1)

    def __call__(self, points: Points) -> NDArray[np.float64]:
        """Return the volume that each point would add alone, for points of shape (points, 3), shape (points,)."""
        inside = (points < 1).all(1)
        points = np.clip(points, 0.0, 1.0)
        depths = np.maximum(self._tops - np.maximum(self._bottoms, points[:, 2:]), 0.0)
        steps = np.maximum(self._steps, points[:, :1])
        widths = np.diff(steps, axis=1)
        free = np.maximum(self._heights - points[:, 1][:, None, None], 0.0)
        added: NDArray[np.float64] = ((depths[:, :, None] * free).sum(axis=1) * widths).sum(axis=1)
        return np.where(inside, added, 0.0)
