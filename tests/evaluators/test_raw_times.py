"""Clock readings apart from their latency: nothing is lost, and every statistic stays what it was."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Outcome, Window
from autocompress.evaluators.outcome_json import to_json
from autocompress.evaluators.raw_times import packed, thinned, unpacked

TIMES = st.lists(st.integers(1, 10**12), min_size=1, max_size=8).map(tuple)
LATENCIES = st.builds(
    Latency,
    windows=st.lists(
        st.builds(Window, baseline_ns=TIMES, candidate_ns=TIMES, contention=st.floats(1, 9)), min_size=1, max_size=4
    ).map(tuple),
    baseline_ms=st.floats(0.1, 100),
    percentile=st.sampled_from([50.0, 95.0, 99.0]),
    processes=st.integers(0, 3),
)
MEASURED = st.builds(
    Measurement,
    accuracy=st.floats(0, 1),
    latency=LATENCIES,
    size_bytes=st.integers(0),
    params=st.integers(0),
    macs=st.integers(0),
)
OUTCOMES = st.one_of(
    st.lists(MEASURED, min_size=1, max_size=3).map(tuple),
    st.builds(Infeasible, reason=st.text(), rung=st.text(), latency=st.none() | LATENCIES),
)


@given(OUTCOMES)
def test_readings_come_back(outcome: Outcome) -> None:
    """An outcome is what is left of it without its readings, and these."""
    assert unpacked(thinned(outcome), packed(outcome)) == outcome


@given(LATENCIES)
def test_statistics_stay_what_they_were(latency: Latency) -> None:
    """Without its readings a latency has the same ratios, interval and number of runs."""
    thin = thinned(Infeasible(reason="", rung="latency", latency=latency)).latency
    assert thin is not None
    assert (thin.ratios, thin.median_ms, thin.low_ms, thin.high_ms) == (
        latency.ratios,
        latency.median_ms,
        latency.low_ms,
        latency.high_ms,
    )
    assert (thin.runs, thin.contended) == (latency.runs, latency.contended)


def test_what_is_left_is_small() -> None:
    """Of a latency of thousands of readings a study's trial has a tenth to read, and the rest compressed."""
    rng = random.Random(0)
    windows = tuple(
        Window(
            baseline_ns=tuple(round(rng.gauss(1e6, 3e4)) for _ in range(200)),
            candidate_ns=tuple(round(rng.gauss(5e5, 2e4)) for _ in range(200)),
        )
        for _ in range(12)
    )
    whole = Infeasible(reason="", rung="latency", latency=Latency(windows=windows, baseline_ms=1.0))
    assert len(to_json(thinned(whole))) < len(to_json(whole)) / 10
    assert len(packed(whole)) < len(to_json(whole)) / 2
