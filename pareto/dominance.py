"""Non-domination, hypervolume and the knee of a front: pure functions over arrays; every objective is minimised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def knee(points: Points) -> int:
    """Return the position of a front's knee: the point farthest on the good side of the line through its ends.

    Objectives are scaled to the front's own range. In two objectives that is the largest distance to the chord between
    the extreme points (I. Das, On characterizing the "knee" of the Pareto curve, 1999; V. Satopää et al., Finding a
    "kneedle" in a haystack, 2011); with more, to the plane through the points where one objective is worst and the
    others are best (J. Branke et al., Finding knees in multi-objective optimization, 2004). All axes then end at
    one, so it is the point with the least sum. An objective in which all points are equal does not count. The first of
    equal points is returned.

    Args:
        points: shape (points, objectives), at least one, to be minimised; without NaN.

    >>> knee(np.array([[0.0, 1.0], [0.2, 0.2], [1.0, 0.0]]))
    1
    """
    least, most = points.min(axis=0), points.max(axis=0)
    spread = np.where(most > least, most - least, 1.0)
    return int(((points - least) / spread).sum(axis=1).argmin())


Points = NDArray[np.float64]
"""Shape (points, objectives); every objective is minimised."""


def non_dominated(points: Points) -> NDArray[np.bool_]:
    """Return for each point whether no other is as good everywhere and better somewhere.

    Equal points do not dominate each other. A point with a NaN is dominated.

    >>> non_dominated(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [True, True, False]
    """
    keep: NDArray[np.bool_] = np.logical_not(np.isnan(points).any(axis=1))
    for i in np.lexsort(points.T[::-1]):
        if keep[i]:
            worse = (points >= points[i]).all(axis=1) & (points > points[i]).any(axis=1)
            keep &= np.logical_not(worse)
    return keep


def hypervolume(points: Points, reference: NDArray[np.float64]) -> float:
    """Return the volume that the points dominate, up to a reference point.

    By slicing along the last objective; exact, for small fronts of two to four objectives
    (Zitzler and Thiele, IEEE TEC 1999).

    Args:
        points: shape (points, objectives); those beyond the reference add nothing.
        reference: shape (objectives,).

    >>> hypervolume(np.array([[0.0, 0.5], [0.5, 0.0]]), np.ones(2))
    0.75

    """
    inside = points[(points < reference).all(axis=1)] if len(points) else points
    if not len(inside):
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0] - inside.min())
    if points.shape[1] > 2:
        inside = inside[non_dominated(inside)]
    inside = inside[inside[:, -1].argsort(kind="stable")]
    depths = np.diff(np.append(inside[:, -1], reference[-1]))
    if points.shape[1] == 2:
        return float(depths @ (reference[0] - np.minimum.accumulate(inside[:, 0])))
    volume = 0.0
    for i, depth in enumerate(depths):
        if depth > 0:
            volume += depth * hypervolume(inside[: i + 1, :-1], reference[:-1])
    return float(volume)
