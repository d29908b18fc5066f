"""K-means on a line: what it returns is a fixed point of Lloyd's rounds, and few values are kept as they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from autocompress.compressors.quantization.kmeans import centroids, nearest

FLOATS = arrays(np.float32, st.integers(1, 200), elements=st.floats(-(2.0**100), 2.0**100, width=32))
Values = NDArray[np.float32]


def error(values: Values, centres: Values) -> float:
    """Return the squared error of values that take their nearest centroids."""
    found = centres[nearest(values, centres)]
    return float(np.square(values.astype(np.float64) - found).sum())


@settings(deadline=None, max_examples=300)
@given(FLOATS, st.integers(1, 64))
def test_every_value_has_its_nearest_centroid(values: Values, count: int) -> None:
    """Centroids are finite, distinct, sorted, within the values, and no more than asked for; none is nearer."""
    found = centroids(values, count)
    assert 1 <= len(found) <= count
    assert (np.diff(found) > 0).all()
    assert found.dtype == values.dtype
    assert values.min() <= found[0] <= found[-1] <= values.max()
    wide, centres = values.astype(np.float64)[:, None], found.astype(np.float64)
    distances = np.abs(wide - centres)
    taken = distances[np.arange(len(values)), nearest(values, found)]
    np.testing.assert_allclose(taken, distances.min(1), rtol=1e-6)


@settings(deadline=None)
@given(FLOATS)
def test_few_values_are_kept_to_the_bit(values: Values) -> None:
    """Where there are centroids enough, each distinct value is one."""
    found = centroids(values, len(np.unique(values)))
    np.testing.assert_array_equal(found[nearest(values, found)], values)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.sampled_from([2, 4, 16, 64]), st.sampled_from(["normal", "uniform", "laplace"]))
def test_centroids_are_the_means_of_their_clusters(seed: int, count: int, kind: str) -> None:
    """Lloyd's rounds have come to their end: nothing moves any more."""
    values = getattr(np.random.default_rng(seed), kind)(size=3000).astype(np.float32)
    found = centroids(values, count)
    assert len(found) == count
    clusters = nearest(values, found)
    means = np.array([values[clusters == cluster].mean(dtype=np.float64) for cluster in range(count)])
    np.testing.assert_allclose(found, means, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("bits", "decibel"), [(1, 4.40), (2, 9.30), (3, 14.62), (4, 20.22), (5, 26.01)])
def test_error_of_normal_numbers_is_that_of_the_best_quantizer(bits: int, decibel: float) -> None:
    """Within a tenth of a decibel of Max's table (IRE Trans. Inf. Theory 1960)."""
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    found = 10 * np.log10(np.square(values).sum() / error(values, centroids(values, 2**bits)))
    assert found == pytest.approx(decibel, abs=0.1)


def test_far_values_do_not_take_all_centroids() -> None:
    """A weight a thousand times as large as the others leaves them a palette, and empty clusters are no centroids."""
    values = np.append(np.random.default_rng(0).standard_normal(5000), 1000).astype(np.float32)
    found = centroids(values, 16)
    assert error(values, found) < 0.2 * np.square(values[:-1]).sum()
    assert (np.bincount(nearest(values, found), minlength=len(found)) > 0).all()
