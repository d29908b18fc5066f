"""Calibration: the range of numbers that a quantizer keeps, from histograms of calibration data.

A range has two ends where the runtime takes any zero point, and otherwise one, for magnitudes. Exact zeros lie on every
grid and are not counted, so that the share of them that a ReLU makes moves no range.
This module imports no torch, as `onnx_files/tensor_ranges.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", NDArray[Any], "Tensor")

BINS = 4096
"""Bins of a histogram; at least half of them are in use."""

PIECE = 2**16
"""Numbers that are counted at a time: they fit into a processor's cache."""

CANDIDATES = 256
"""How many thresholds are tried where the best one is searched."""

LARGE = 1024
"""Numbers of an example from which on their mean square tells the size of its numbers."""

TRIED = 64
"""The same where both ends of a range are searched."""

TOP = 127
"""The largest integer of symmetric INT8."""

STEPS = 255
"""The steps from the least to the largest integer of 8 bits."""

LEAST = 1e-8
"""The least magnitude that a range ends at."""

LARGEST_BIAS = 2**29
"""The largest bias in steps of the products it is added to: all must fit into 32 bits, inputs in half the step too."""


@dataclass(frozen=True)
class Grid:
    """The numbers that integers of 8 bits stand for: whole multiples of a step, 0 among them.

    Attributes:
        step: between two neighbours.
        least: the least multiple.
        most: the largest multiple.

    """

    step: float
    least: int = -TOP
    most: int = TOP

    @classmethod
    def over(cls, low: float, high: float, *, asymmetric: bool) -> Grid:
        """Return the grid from a least to a largest number; one that is symmetric reaches as far to both sides.

        >>> grid = Grid.over(-0.5, 2.05, asymmetric=True)
        >>> round(grid.step, 4), grid.least, grid.most
        (0.01, -50, 205)
        """
        if not asymmetric:
            return cls(max(-low, high, LEAST) / TOP)
        low, high = min(low, 0.0), max(high, 0.0)
        step = max(high - low, LEAST) / STEPS
        zero = round(-low / step)
        return cls(step, -zero, STEPS - zero)

    @property
    def asymmetric(self) -> bool:
        """Whether its integers are UINT8, with a zero point of its own; otherwise INT8 around 0."""
        return self.most - self.least == STEPS

    @property
    def zero(self) -> NDArray[np.int8] | NDArray[np.uint8]:
        """The integer that stands for 0, in its type."""
        return np.array(-self.least, np.uint8) if self.asymmetric else np.array(0, np.int8)

    def joined(self, other: Grid) -> Grid:
        """Return the grid over the ranges of both; it is symmetric if one of them is."""
        low = min(grid.least * grid.step for grid in (self, other))
        high = max(grid.most * grid.step for grid in (self, other))
        return self if self == other else Grid.over(low, high, asymmetric=self.asymmetric and other.asymmetric)


class Histogram:
    """A histogram of nonzero magnitudes in equal bins; its range doubles when a larger one comes.

    Attributes:
        counts: of shape (BINS,); each number counts with the weight that it was given.
        reach: the upper edge of the last bin.
        largest: the largest magnitude so far; 0 before any came.

    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS)
        self.reach = 0.0
        self.largest = 0.0

    def add(self, values: NDArray[np.floating], weight: float = 1.0) -> None:
        """Count the magnitudes of an array of any shape.

        Raises:
            InfeasibleError: one of them is not finite.

        """
        numbers = np.ravel(values)
        for start in range(0, numbers.size, PIECE):
            self._count(np.abs(numbers[start : start + PIECE]), weight)

    def _count(self, magnitudes: NDArray[np.floating], weight: float) -> None:
        """Count some magnitudes, which are overwritten."""
        largest = float(magnitudes.max())
        if not largest:
            return
        if not np.isfinite(largest):
            raise InfeasibleError(f"calibration met {largest}; ranges need finite numbers", rung="build")
        self.reach = self.reach or largest
        while largest > self.reach:
            self.counts = np.concatenate((self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2)))
            self.reach *= 2
        zeros = magnitudes.size - np.count_nonzero(magnitudes)
        magnitudes /= self.reach
        magnitudes *= BINS
        places = np.minimum(magnitudes, BINS - 1, out=magnitudes).astype(np.intp)
        found = np.bincount(places, minlength=BINS)
        found[0] -= zeros
        self.counts += weight * found
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
    def filled(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The counts and the middles of the bins that are not empty."""
        full = self.counts > 0
        return self.counts[full], self.centres[full]

    def edge(self, bins: int) -> float:
        """Return the upper edge of a number of bins, at most the largest magnitude seen."""
        return min(bins * (self.reach / BINS), self.largest)


class Sides:
    """Histograms of the magnitudes below 0 and above it; of all together where a grid must be symmetric.

    For least squares each example counts as much as any other, whatever the size of its numbers: the errors of a few
    examples with much larger ones would be nearly all of the sum, and their ranges those of all.

    Args:
        method: one of `METHODS`.
        asymmetric: whether ranges have two ends.
    """

    def __init__(self, method: str, *, asymmetric: bool) -> None:
        self.method = method
        self.asymmetric = asymmetric
        self.below, self.above = Histogram(), Histogram()

    def add(self, values: NDArray[np.floating], examples: int = 1) -> None:
        """Count the numbers of a batch of so many examples, or of an array without a batch."""
        apart = self.method == MSE and values.ndim and len(values) % examples == 0 and values.size >= LARGE * examples
        for row in values.reshape(examples if apart else 1, -1):
            power = float(np.square(row, dtype=np.float64).mean()) if apart else 1.0
            if self.asymmetric:
                self.below.add(np.minimum(row, 0), 1 / (power or 1.0))
                self.above.add(np.maximum(row, 0), 1 / (power or 1.0))
            else:
                self.above.add(row, 1 / (power or 1.0))

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest number to keep."""
        if not self.asymmetric:
            return 0.0, threshold(self.above, self.method)
        if self.method == MSE and self.below.largest and self.above.largest:
            return _least_squares(self.below, self.above)
        whole = self.below.largest + self.above.largest
        tops = [max(1, round(STEPS * side.largest / whole)) if whole else STEPS for side in (self.below, self.above)]
        return -threshold(self.below, self.method, tops[0]), threshold(self.above, self.method, tops[1])


def pair_sums(weight: Array) -> Array:
    """Return sums of weights whose products with UINT8 some kernels add in 16 bits, of shape (out, pairs).

    They are pairs of neighbours, where those are even in number and never lie across places in a kernel, and otherwise
    all neighbours. Processors without VNNI do this: 255 times a pair must be below 2¹⁵.

    Args:
        weight: of shape (out, …, in), an array or a tensor.

    """
    row = weight.reshape(len(weight), -1)
    step = 1 if weight.shape[-1] % 2 else 2
    sums: Array = row[:, :-1:step] + row[:, 1::step]
    return sums


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


def _squared_error(counts: NDArray[np.float64], centres: NDArray[np.float64], threshold: float, top: int) -> float:
    return _rounding_error(counts, centres, threshold, threshold / top)


def _rounding_error(counts: NDArray[np.float64], centres: NDArray[np.float64], threshold: float, step: float) -> float:
    rounded = np.minimum(np.rint(centres / step) * step, threshold)
    return float((counts * np.square(centres - rounded)).sum())


def _least_squares(below: Histogram, above: Histogram) -> tuple[float, float]:
    """Return both ends of the range that `mse` has on one side: first moved together, then each by itself."""
    sides = [side.filled for side in (below, above)]
    ends = np.array([below.largest, above.largest])

    def error(ends: NDArray[np.float64]) -> float:
        step = float(ends.sum()) / STEPS
        return sum(_rounding_error(*side, float(end), step) for side, end in zip(sides, ends, strict=True))

    for moved in ((1, 1), (0, 1), (1, 0)):
        shares = np.arange(1, TRIED + 1)[:, None] / TRIED
        tried = np.where(moved, ends * shares, ends)
        ends = tried[int(np.argmin([error(each) for each in tried]))]
    return -float(ends[0]), float(ends[1])


def entropy(histogram: Histogram, top: int = TOP) -> float:
    """Return the threshold whose quantized distribution diverges least from the clipped one.

    The divergence is Kullback and Leibler's (Migacz, "8-bit inference with TensorRT", GTC 2017). Of equals the widest.
    """
    used, levels = histogram.used, top + 1
    kept = [*range(min(levels, used), used, max(1, used // CANDIDATES)), used]
    divergences = [_divergence(histogram.counts[:used], bins, levels) for bins in kept]
    _, negative = min(zip(divergences, (-bins for bins in kept), strict=True))
    return histogram.edge(-negative)


def _divergence(counts: NDArray[np.float64], kept: int, levels: int) -> float:
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


MAX, MSE = "max", "mse"

METHODS: dict[str, Callable[[Histogram, int], float]] = {
    MSE: mse,
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
