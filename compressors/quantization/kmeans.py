"""One-dimensional k-means: the few values that represent many best."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROUNDS = 1000
"""Lloyd's rounds at most; a round costs a few searches in sorted numbers, however many there are."""

BINS = 2048
"""Of the histogram that the first centroids are drawn from."""


def centroids(values: NDArray[np.floating], count: int) -> NDArray[np.floating]:
    """Return at most `count` centroids that Lloyd's algorithm finds for the least squared error.

    The rounds (Lloyd, IEEE Trans. Inf. Theory 1982) begin where the cube root of the values' density puts the
    centroids, which is the best place for many of them (Panter and Dite, Proc. IRE 1951); Deep Compression's even steps
    (Han et al., ICLR 2016, section 3.2) leave most of them to the few large values. Nothing is random.

    Args:
        values: finite, of shape (n,).
        count: of centroids, at least one.

    Returns:
        Distinct and sorted, of shape (m,), m ≤ count: fewer where there are fewer distinct values.

    >>> centroids(np.array([1.0, 1.0, 2.0, 9.0, 10.0, 11.0]), 2).round(2).tolist()
    [1.33, 10.0]
    """
    values = np.sort(values)
    distinct = np.unique(values)
    if len(distinct) <= count:
        return distinct
    sums = np.concatenate((np.zeros(1), np.cumsum(values, dtype=np.float64)))
    found, edges = _first(values, count), np.zeros(count + 1, np.int64)
    for _ in range(ROUNDS):
        before, edges = edges, _edges(values, found)
        if np.array_equal(before, edges):
            break
        found = _means(values, sums, edges, found)
    return np.unique(found[np.diff(edges) > 0].astype(values.dtype))


def nearest(values: NDArray[np.floating], centres: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return for each value the index of the nearest sorted centroid; ties go to the lower one."""
    return np.searchsorted(_middles(centres), values.astype(np.float64), side="left")


def _first(values: NDArray[np.floating], count: int) -> NDArray[np.float64]:
    """Return initial centroids at even steps of the cumulative cube root of the density."""
    heights, borders = np.histogram(values.astype(np.float64), BINS)
    mass = np.concatenate((np.zeros(1), np.cumsum(np.cbrt(heights))))
    found: NDArray[np.float64] = np.interp((np.arange(count) + 0.5) / count * mass[-1], mass, borders)
    return found


def _middles(centres: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = centres.astype(np.float64)
    return wide[:-1] / 2 + wide[1:] / 2


def _edges(values: NDArray[np.floating], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return where each cluster begins among sorted values, and the number of values."""
    inner = np.searchsorted(values, _middles(centres), side="right")
    return np.concatenate((np.zeros(1, np.int64), inner, np.full(1, len(values))))


def _means(
    values: NDArray[np.floating], sums: NDArray[np.float64], edges: NDArray[np.int64], centres: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of each cluster; an empty cluster keeps its centroid."""
    start, stop = edges[:-1], edges[1:]
    full = stop > start
    means = (sums[stop] - sums[start]) / np.maximum(stop - start, 1)
    low, high = values[np.minimum(start, len(values) - 1)], values[np.maximum(stop, 1) - 1]
    return np.where(full, np.clip(means, low, high), centres)  # a difference of large sums may leave the cluster
