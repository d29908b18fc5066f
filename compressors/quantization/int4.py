"""INT4 in blocks along an axis. This module imports no torch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

LEAST_BLOCK = 64
"""The fewest weights that share one INT4 scale: TensorRT takes 64 and 128."""


def block_of(count: int, most: int, least: int = LEAST_BLOCK) -> int:
    """Return the largest block that divides a count, halved from ``most`` down to ``least``; 0 where none does.

    >>> block_of(768, 128), block_of(192, 128), block_of(96, 128)
    (128, 64, 0)
    """
    while most >= least and count % most:
        most //= 2
    return most if most >= least else 0


def quantize_blocks(
    weight: NDArray[np.floating], axis: int, block: int
) -> tuple[NDArray[np.generic], NDArray[np.floating]]:
    """Return a weight as INT4 in −7…7, and the scales of its blocks along an axis, in the weight's own type."""
    shape = (*weight.shape[:axis], weight.shape[axis] // block, block, *weight.shape[axis + 1 :])
    largest = np.abs(weight.astype(np.float32)).reshape(shape).max(axis + 1)
    least = np.finfo(weight.dtype).tiny
    scale = np.maximum(largest / 7, least).astype(weight.dtype)
    steps = np.repeat(scale.astype(np.float32), block, axis)
    return np.clip(np.rint(weight / steps), -7, 7).astype(ml_dtypes.int4), scale
