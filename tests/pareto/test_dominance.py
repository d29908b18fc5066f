"""The knee of a front depends on its shape alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autocompress.pareto.dominance import Points, knee, non_dominated

FRONTS = st.integers(1, 4).flatmap(
    lambda objectives: arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.just(objectives)),
        elements=st.integers(0, 50).map(float),
    )
)


@given(FRONTS)
def test_it_is_not_dominated(points: Points) -> None:
    """Nothing is as good everywhere and better somewhere."""
    assert non_dominated(points)[knee(points)]


@given(FRONTS, st.integers(-3, 3), st.integers(0, 4))
def test_units_do_not_matter(points: Points, shift: int, power: int) -> None:
    """Milliseconds or seconds, accuracies from zero or from a half: it is as far from the chord."""
    scale = 2.0 ** (power * np.arange(points.shape[1]))
    assert knee(points * scale + shift) == knee(points)


@given(FRONTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(points: Points, random: np.random.Generator) -> None:
    """A front in another order has the same knee, or one as far out."""
    order = list(range(len(points)))
    random.shuffle(order)
    least, most = points.min(axis=0), points.max(axis=0)
    scaled = (points - least) / np.where(most > least, most - least, 1.0)
    here, there = scaled[knee(points)], scaled[order][knee(points[order])]
    assert np.isclose(here.sum(), there.sum())


@given(st.floats(0.05, 0.95), st.integers(3, 40))
def test_a_corner_is_found(place: float, count: int) -> None:
    """Of two straight lines that meet, in two objectives, it is where they do."""
    x = np.linspace(0.0, 1.0, count)
    lines = np.maximum(1 - x * (1 - 0.5 * place) / (0.5 * place), (1 - x) * 0.5 * place / (1 - 0.5 * place))
    corner = np.array([[0.5 * place, 0.5 * place]])
    points = np.concatenate([np.stack([x, lines], axis=1), corner])
    found = points[knee(points)]
    assert abs(found - corner).max() <= 1 / (count - 1) + 1e-9


def test_where_all_lie_on_the_chord_the_first_end_counts() -> None:
    """Nothing bends, so no point is better than the ends."""
    assert knee(np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])) == 0
