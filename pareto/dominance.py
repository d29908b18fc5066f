"""The knee of a front: where giving up more of one objective begins to pay less in the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .front import Points


def knee(points: Points) -> int:
    """Return the position of the point that lies farthest on the good side of the line through a front's ends.

    Objectives are scaled to the front's own range. In two objectives that is the largest distance to the chord between
    the extreme points (I. Das, On characterizing the "knee" of the Pareto curve, 1999; V. Satopää et al., Finding a
    "kneedle" in a haystack, 2011); with more, to the plane through the points where one objective is worst and the
    others are best (J. Branke et al., Finding knees in multi-objective optimization, 2004). As all axes then end at
    one, that is the point with the least sum. An objective in which all are equal says nothing. Of equals the first.

    Args:
        points: shape (points, objectives), at least one, to be minimised; without NaN.

    >>> knee(np.array([[0.0, 1.0], [0.2, 0.2], [1.0, 0.0]]))
    1
    """
    least, most = points.min(axis=0), points.max(axis=0)
    spread = np.where(most > least, most - least, 1.0)
    return int(((points - least) / spread).sum(axis=1).argmin())
