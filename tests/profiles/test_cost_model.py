"""What layers cost in the baseline, and what is predicted from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.profiles.profile import Profile
from autocompress.spaces.candidate import BITS, Candidate

PROBLEM = AnalyticEvaluator(4)
PROFILE = Profile.from_dict(PROBLEM.profile())


@given(st.fixed_dictionaries({name: st.integers(0, size - 1) for name, size in PROBLEM.space.sizes.items()}))
def test_predictions_are_sums_over_layers(levels: dict[str, int]) -> None:
    """Where latency is such a sum, the prediction is exact for every candidate."""
    candidate = PROBLEM.space.candidate(levels)
    (measured,) = PROBLEM.evaluate(Request(folder="", candidate=candidate, epochs=0))
    assert PROFILE.predict_ms(candidate) == pytest.approx(measured.latency.median_ms, rel=1e-6)


def test_the_unchanged_network_costs_the_baseline() -> None:
    """Whatever INT8 gains, a candidate that changes nothing is predicted to take the baseline's time."""
    costs = replace(PROFILE.costs, factors={BITS: {"layer0": {"8": 0.1}}})
    assert costs.predict_ms(PROBLEM.network, Candidate()) == pytest.approx(PROFILE.baseline_ms)
