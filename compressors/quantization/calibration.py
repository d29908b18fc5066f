"""Calibration: the largest magnitude that a quantizer keeps, from a histogram of calibration data.

Exact zeros lie on every grid and are not counted, so that the share of them that a ReLU makes moves no range.
This module imports no torch, as `onnx_files/tensor_ranges.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError

BINS = 4096
"""Bins of a histogram; at least half of them are in use."""

CANDIDATES = 256
"""How many thresholds are tried where the best one is searched."""

TOP = 127
"""The largest integer of symmetric INT8."""

LARGEST_BIAS = 2**29
"""The largest bias in steps of the products it is added to: all must fit into 32 bits, inputs in half the step too."""


class Histogram:
    """A histogram of nonzero magnitudes in equal bins; its range doubles when a larger one comes.

    Attributes:
        counts: of shape (BINS,).
        reach: the upper edge of the last bin.
        largest: the largest magnitude so far; 0 before any came.

    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.reach = 0.0
        self.largest = 0.0

    def add(self, values: NDArray[np.floating]) -> None:
        """Count the magnitudes of an array of any shape.

        Raises:
            InfeasibleError: one of them is not finite.

        """
        magnitudes = np.abs(values).ravel()
        magnitudes = magnitudes[magnitudes != 0]
        if not magnitudes.size:
            return
        largest = float(magnitudes.max())
        if not np.isfinite(largest):
            raise InfeasibleError(f"calibration met {largest}; ranges need finite numbers", rung="build")
        self.reach = self.reach or largest
        while largest > self.reach:
            self.counts = np.concatenate((self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)))
            self.reach *= 2
        places = np.minimum(magnitudes / self.reach * BINS, BINS - 1).astype(np.intp)
        self.counts += np.bincount(places, minlength=BINS)
        self.largest = max(self.largest, largest)

    @property
    def used(self) -> int:
        """The number of bins up to the last nonempty one."""
        return int(np.flatnonzero(self.counts)[-1]) + 1

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin, of shape (BINS,)."""
        middles: NDArray[np.float64] = np.minimum((np.arange(BINS) + 0.5) * (self.reach / BINS), self.largest)
        return middles

    @property
    def filled(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The counts and the middles of the bins that are not empty."""
        full = self.counts > 0
        return self.counts[full], self.centres[full]

    def edge(self, bins: int) -> float:
        """Return the upper edge of a number of bins, at most the largest magnitude seen."""
        return min(bins * (self.reach / BINS), self.largest)


def percentile(histogram: Histogram, share: float) -> float:
    """Return the smallest magnitude that a share of all magnitudes, between 0 and 1, does not exceed."""
    below = np.cumsum(histogram.counts)
    return histogram.edge(int(np.searchsorted(below, share * below[-1])) + 1)


def mse(histogram: Histogram, top: int = TOP) -> float:
    """Return the threshold that minimises the squared error of rounding and clipping together.

    (Banner et al., NeurIPS 2019, section 3, searched over evenly spaced thresholds rather than a fitted density.)
    """
    thresholds = histogram.largest * np.arange(1, CANDIDATES + 1) / CANDIDATES
    numbers = histogram.filled
    errors = [_squared_error(*numbers, threshold, top) for threshold in thresholds]
    return float(thresholds[int(np.argmin(errors))])


def squared_error(histogram: Histogram, threshold: float, top: int = TOP) -> float:
    """Return the sum of squared errors when magnitudes are rounded to ``top`` steps up to a threshold."""
    return _squared_error(*histogram.filled, threshold, top)


def _squared_error(counts: NDArray[np.int64], centres: NDArray[np.float64], threshold: float, top: int) -> float:
    step = threshold / top
    rounded = np.minimum(np.rint(centres / step), top) * step
    return float((counts * np.square(centres - rounded)).sum())


def entropy(histogram: Histogram, top: int = TOP) -> float:
    """Return the threshold whose quantized distribution diverges least from the clipped one.

    The divergence is Kullback and Leibler's (Migacz, "8-bit inference with TensorRT", GTC 2017). Of equals the widest.
    """
    used, levels = histogram.used, top + 1
    kept = [*range(min(levels, used), used, max(1, used // CANDIDATES)), used]
    divergences = [_divergence(histogram.counts[:used], bins, levels) for bins in kept]
    _, negative = min(zip(divergences, (-bins for bins in kept), strict=True))
    return histogram.edge(-negative)


def _divergence(counts: NDArray[np.int64], kept: int, levels: int) -> float:
    """Return the divergence between clipped bins and the same bins merged into levels."""
    inside = counts[:kept].astype(np.float64)
    clipped = inside.copy()
    clipped[-1] += counts[kept:].sum()
    level, full = np.arange(kept) * levels // kept, inside > 0
    if not full.any():
        return float("inf")
    mass, width = np.bincount(level, inside), np.bincount(level, full)
    merged = np.where(full, (mass / np.maximum(width, 1))[level], 0.0)
    there = clipped > 0
    p, q = clipped[there] / clipped.sum(), merged[there] / merged.sum()
    return float((p * np.log(p / q)).sum()) if (q > 0).all() else float("inf")


MAX = "max"

METHODS: dict[str, Callable[[Histogram, int], float]] = {
    "mse": mse,
    MAX: lambda histogram, top: histogram.largest,
    "percentile_99.99": lambda histogram, top: percentile(histogram, 0.9999),
    "percentile_99.9": lambda histogram, top: percentile(histogram, 0.999),
    "entropy": entropy,
}
"""The ways to find a threshold, the default first (``bench/families.py --agreement`` compares them)."""

DEFAULT = next(iter(METHODS))


def threshold(histogram: Histogram, method: str, top: int = TOP) -> float:
    """Return the largest magnitude to keep by one of `METHODS`, for ``top`` steps; 0 without data."""
    return METHODS[method](histogram, top) if histogram.largest else 0.0
