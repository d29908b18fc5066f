"""Intervals of accuracies and of their differences hold what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autocompress.evaluators.scores import packed
from autocompress.reports.accuracy_interval import difference, paired

BITS = arrays(np.float64, 50, elements=st.sampled_from([0.0, 1.0]))


@given(BITS, BITS)
def test_the_other_way_round_a_difference_has_the_other_sign(one: np.ndarray, other: np.ndarray) -> None:
    """Which of two models is the first makes no difference, and the difference that was seen lies inside."""
    there, back = paired(packed(one), packed(other)), paired(packed(other), packed(one))
    assert there is not None
    assert back is not None
    assert there == pytest.approx([-back[1], -back[0]], abs=2e-6)
    assert there[0] - 1e-6 <= one.mean() - other.mean() <= there[1] + 1e-6


@pytest.mark.parametrize(("accuracy", "lost", "won"), [(0.9, 0.02, 0.01), (0.8, 0.05, 0.02)])
def test_the_paired_interval_holds_the_truth_and_is_narrower(accuracy: float, lost: float, won: float) -> None:
    """Of samples of 300 examples about 19 in 20 hold the true difference; it is half as wide as of two samples."""
    rng, held, widths = np.random.default_rng(1), 0, []
    for _ in range(600):
        before = rng.random(300) < accuracy
        after = np.where(before, rng.random(300) >= lost / accuracy, rng.random(300) < won / (1 - accuracy))
        found = paired(packed(after.astype(float)), packed(before.astype(float)))
        apart = difference(float(after.mean()), float(before.mean()), 300)
        assert found is not None
        assert apart is not None
        held += found[0] <= won - lost <= found[1]
        widths.append((found[1] - found[0]) / (apart[1] - apart[0]))
    assert held / 600 > 0.93
    assert np.median(widths) < 0.6


def test_scores_that_are_no_answers_have_students_interval() -> None:
    """Errors of the same examples are compared too, and what was scored on others is not."""
    rng = np.random.default_rng(2)
    hard = rng.exponential(1.0, 200)
    found = paired(packed(-hard - 0.01), packed(-hard))
    assert found is not None
    assert -0.02 < found[0] < -0.005
    assert -0.015 < found[1] < 0.0
    assert paired(packed(hard), packed(hard[1:])) is None
    assert paired(packed(hard), "") is None
