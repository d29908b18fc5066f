"""Non-domination, hypervolume and the knee of a front."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from optuna._hypervolume import compute_hypervolume

from autocompress.pareto.dominance import Points, hypervolume, knee, non_dominated

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


@st.composite
def points(draw: st.DrawFn, values: st.SearchStrategy[float], least: int = 2, most: int = 3) -> Points:
    """Draw an array of shape (up to 12 points, objectives) on a coarse grid, where ties are common."""
    shape = draw(st.integers(1, 12)), draw(st.integers(least, most))
    return draw(arrays(np.float64, shape, elements=values))


GRID = st.integers(0, 6).map(float)
WITH_NAN = GRID | st.just(float("nan"))


@given(points(WITH_NAN, 1, 4))
def test_non_domination_is_its_definition(rows: Points) -> None:
    """A point stays if no other is as good everywhere and better somewhere; a point with a NaN never stays."""
    expected = [
        not np.isnan(p).any() and not any((q <= p).all() and (q < p).any() for q in rows if not np.isnan(q).any())
        for p in rows
    ]
    assert non_dominated(rows).tolist() == expected


@given(points(GRID))
def test_equal_points_stay_together(rows: Points) -> None:
    """Doubling every point doubles the mask."""
    once = non_dominated(rows)
    assert non_dominated(np.vstack([rows, rows])).tolist() == [*once, *once]


@given(points(GRID))
def test_hypervolume_agrees_with_optuna(rows: Points) -> None:
    """The volume is the one that Optuna's algorithm finds for the points inside the box."""
    reference = np.full(rows.shape[1], 5.0)
    inside = rows[(rows < reference).all(axis=1)]
    expected = compute_hypervolume(inside, reference) if len(inside) else 0.0
    assert hypervolume(rows, reference) == pytest.approx(expected)


@given(points(GRID))
def test_hypervolume_counts_the_dominated_cells(rows: Points) -> None:
    """On a grid of unit cells the volume is the number of cells above any point."""
    cells = np.stack(np.meshgrid(*[np.arange(5.0)] * rows.shape[1]), axis=-1).reshape(-1, rows.shape[1])
    dominated = (cells[:, None, :] >= rows[None]).all(axis=2).any(axis=1).sum()
    assert hypervolume(rows, np.full(rows.shape[1], 5.0)) == dominated


@given(points(WITH_NAN))
def test_a_nan_adds_no_volume(rows: Points) -> None:
    """Points with a NaN count for nothing."""
    reference = np.full(rows.shape[1], 5.0)
    assert hypervolume(rows, reference) == hypervolume(rows[~np.isnan(rows).any(axis=1)], reference)
