"""Where to clip: what each method promises of a histogram of magnitudes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.compressors.quantization.calibration import (
    BINS,
    METHODS,
    Histogram,
    Sides,
    entropy,
    mse,
    percentile,
    squared_error,
    threshold,
)
from autocompress.errors import InfeasibleError

finite = st.floats(-1e6, 1e6, allow_nan=False, width=32)
arrays = st.lists(st.lists(finite, min_size=1, max_size=60), min_size=1, max_size=5).map(
    lambda batches: [np.array(batch, np.float32) for batch in batches]
)
tops = st.sampled_from([7, 127])


def histogram(batches: list[np.ndarray]) -> Histogram:
    """Return the histogram of batches that come one after the other."""
    it = Histogram()
    for batch in batches:
        it.add(batch)
    return it


def normal(count: int = 20_000, outlier: float = 0.0) -> Histogram:
    """Return the histogram of normal numbers, and of one outlier where it is not 0."""
    values = np.random.default_rng(0).normal(size=count).astype(np.float32)
    return histogram([values, np.array([outlier], np.float32)])


@given(arrays)
def test_every_magnitude_is_counted_once(batches: list[np.ndarray]) -> None:
    """All numbers but zeros are in some bin, the largest is known exactly, and no more than half of the bins idle."""
    it, values = histogram(batches), np.abs(np.concatenate(batches))
    assert it.counts.sum() == np.count_nonzero(values)
    assert it.largest == values.max()
    if it.largest:
        assert it.largest <= it.reach
        assert BINS // 2 <= it.used <= BINS


@given(arrays)
def test_bins_hold_what_lies_between_their_edges(batches: list[np.ndarray]) -> None:
    """However often the range grew, a magnitude is at most two bins off."""
    it, values = histogram(batches), np.abs(np.concatenate(batches))
    if it.largest:
        places = np.repeat(np.arange(BINS), it.counts.astype(int))
        expected = np.sort(values[values != 0]).astype(np.float64) / it.reach * BINS
        assert np.abs(np.sort(places) - expected).max() <= 2


@settings(deadline=None)
@given(arrays, st.sampled_from(sorted(METHODS)), tops)
def test_thresholds_lie_between_zero_and_the_largest(batches: list[np.ndarray], method: str, top: int) -> None:
    """A threshold is above 0 and clips nothing beyond the largest number; no numbers have none."""
    it = histogram(batches)
    found = threshold(it, method, top)
    assert 0 < found <= it.largest if it.largest else found == 0


@settings(deadline=None)
@given(arrays, tops)
def test_least_squares_is_never_worse_than_the_largest(batches: list[np.ndarray], top: int) -> None:
    """Its squared error is at most that of clipping nothing."""
    it = histogram(batches)
    if it.largest:
        assert squared_error(it, mse(it, top), top) <= squared_error(it, it.largest, top)


def test_max_clips_nothing() -> None:
    """The default keeps the largest number exactly."""
    it = normal(outlier=33.3)
    assert threshold(it, "max") == pytest.approx(33.3, rel=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.999, 0.9999])
def test_percentile_is_numpys(share: float) -> None:
    """So many numbers lie below it, to the width of a bin."""
    values = np.random.default_rng(0).exponential(size=50_000).astype(np.float32)
    found = percentile(histogram([values]), share)
    assert found == pytest.approx(float(np.quantile(values, share)), abs=2 * float(values.max()) / BINS)
    assert (values <= found).mean() >= share


@pytest.mark.parametrize("method", ["percentile_99.9", "percentile_99.99", "entropy"])
def test_an_outlier_is_clipped(method: str) -> None:
    """One number far out does not take the levels from all others."""
    assert threshold(normal(outlier=100.0), method) < 10


def test_least_squares_are_those_of_the_numbers() -> None:
    """The threshold found on the histogram is the best for the numbers too, by far where there are outliers."""
    values = np.random.default_rng(0).standard_t(3, 50_000).astype(np.float32)

    def error(limit: float) -> float:
        step = limit / 7
        return float(np.square(values - np.clip(np.rint(values / step), -7, 7) * step).mean())

    it = histogram([values])
    assert error(mse(it, 7)) < 0.2 * error(it.largest)
    assert error(mse(it, 7)) < 1.02 * min(error(limit) for limit in np.linspace(0.5, it.largest, 300))


def test_entropy_keeps_all_of_a_range_that_is_used_evenly() -> None:
    """Where no number is rare, clipping would lose more than it gives."""
    values = np.random.default_rng(0).uniform(-1, 1, 200_000).astype(np.float32)
    assert entropy(histogram([values])) > 0.95


@given(arrays, st.sampled_from(sorted(METHODS)), st.floats(2.0**-10, 2.0**10))
@settings(deadline=None, max_examples=50)
def test_thresholds_scale_with_the_numbers(batches: list[np.ndarray], method: str, factor: float) -> None:
    """Numbers twice as large have thresholds twice as large."""
    power = np.float32(2.0 ** round(np.log2(factor)))
    values = [np.where(np.abs(batch) < 1e-6, 0, batch).astype(np.float32) for batch in batches]
    plain, scaled = (threshold(histogram(b), method) for b in (values, [x * power for x in values]))
    assert scaled == pytest.approx(plain * float(power), rel=1e-6)


def test_zeros_do_not_count() -> None:
    """What a ReLU sets to 0 moves no percentile."""
    values = np.random.default_rng(0).normal(size=5_000).astype(np.float32)
    padded = np.concatenate((values, np.zeros(1_000_000, np.float32)))
    for method in METHODS:
        assert threshold(histogram([padded]), method) == threshold(histogram([values]), method)


@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_not_finite_are_infeasible(number: float) -> None:
    """A network that makes such numbers has no ranges."""
    with pytest.raises(InfeasibleError, match="finite") as caught:
        histogram([np.array([1.0, number], np.float32)])
    assert caught.value.rung == "build"


def test_few_examples_with_large_numbers_do_not_take_the_levels_of_all_others() -> None:
    """By least squares all examples count alike; where they are alike, their range is that of all together."""
    values = np.random.default_rng(0).normal(size=(100, 5_000)).astype(np.float32)
    plain, far = Sides("mse", asymmetric=True), Sides("mse", asymmetric=True)
    for sides in (plain, far):
        sides.add(values, len(values))
    far.add(100 * values[:3], 3)
    assert mse(histogram([values, 100 * values[:3]]), 127) > 200
    assert far.ends[1] < 50
    assert plain.ends[1] == pytest.approx(mse(histogram([values]), 127), rel=0.05)
