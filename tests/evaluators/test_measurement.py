"""What is known of a candidate: statistics, and JSON both ways."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit

from autocompress.evaluators.measurement import (
    Infeasible,
    Latency,
    Measurement,
    Outcome,
    Window,
    half_width,
    placement,
)
from autocompress.evaluators.meters.latency import CAREFUL, SEARCH, Plan, settled
from autocompress.evaluators.outcome_json import from_json, to_json
from autocompress.evaluators.student import student
from autocompress.search.careful_measurement import ROUND, ROUNDS

TIMES = st.lists(st.integers(1, 10**12), min_size=1, max_size=8).map(tuple)
FLOATS = st.floats(0, 1e6)
WINDOWS = st.builds(
    Window, baseline_ns=TIMES, candidate_ns=TIMES, contention=FLOATS, bridge=st.sampled_from([1.0, 0.1])
)
LATENCIES = st.builds(
    Latency,
    windows=st.lists(WINDOWS, min_size=1, max_size=4).map(tuple),
    baseline_ms=FLOATS,
    runtime=st.sampled_from(["onnxruntime", "openvino:bf16", "pytorch:aoti", "/home/me/Müller/my runtime.py:fast"]),
    clock=st.sampled_from(["cpu", "wall"]),
    threads=st.integers(1, 64),
    baseline_spread=st.floats(0, 1),
    environment=st.dictionaries(st.text(), st.text()),
)
MEASURED = st.builds(
    Measurement,
    accuracy=FLOATS,
    latency=LATENCIES,
    size_bytes=st.integers(0),
    params=st.integers(0),
    macs=st.integers(0),
    test_accuracy=st.none() | FLOATS,
    one_shot_accuracy=st.none() | FLOATS,
    rung=st.text(),
    parity=FLOATS,
    seconds=st.dictionaries(st.text(), FLOATS),
)

OUTCOMES = st.one_of(
    st.tuples(MEASURED),
    st.tuples(MEASURED, MEASURED),
    st.builds(Infeasible, reason=st.text(), rung=st.text(), latency=st.none() | LATENCIES),
)


def latency(*ratios: float, baseline_ms: float = 10.0) -> Latency:
    """Return a latency whose windows have the given ratios."""
    windows = tuple(Window(baseline_ns=(1_000_000,), candidate_ns=(round(r * 1_000_000),)) for r in ratios)
    return Latency(windows=windows, baseline_ms=baseline_ms)


@given(OUTCOMES)
def test_json_brings_every_outcome_back(outcome: Outcome) -> None:
    """`from_json` undoes `to_json`."""
    assert from_json(to_json(outcome)) == outcome


def test_json_of_an_unknown_kind_is_refused() -> None:
    """The kind says what to build, so an unknown one is an error."""
    with pytest.raises(ValueError, match="kind must be"):
        from_json('{"kind": "guess"}')


def test_half_width_is_that_of_student() -> None:
    """Three values have two degrees of freedom: t = 4.3027."""
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3))
    assert half_width([1.0]) == math.inf


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 35, 100])
def test_percentiles_of_student_are_those_of_scipy(freedom: int) -> None:
    """For even and odd degrees of freedom."""
    assert student(freedom) == pytest.approx(stdtrit(freedom, 0.975))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=12), st.floats(0.01, 1000))
def test_interval_encloses_the_median(ratios: list[float], baseline_ms: float) -> None:
    """The ends are in order and never negative."""
    it = latency(*ratios, baseline_ms=baseline_ms)
    assert 0 <= it.low_ms <= it.median_ms <= it.high_ms


def test_target_is_met_by_the_upper_end_of_the_interval() -> None:
    """A median within the target is not enough."""
    it = latency(0.49, 0.50, 0.51)
    assert it.median_ms == pytest.approx(5.0)
    assert not it.meets(5.1)
    assert it.meets(5.3)


def test_a_single_window_meets_no_target() -> None:
    """Without a second window there is no interval."""
    assert not latency(0.1).meets(1e9)


def test_overlapping_intervals_are_tied() -> None:
    """Being tied is symmetric."""
    slow, close, fast = latency(0.49, 0.50, 0.51), latency(0.51, 0.52, 0.53), latency(0.1, 0.1, 0.1)
    assert slow.tied(close)
    assert close.tied(slow)
    assert not slow.tied(fast)


def test_a_claim_in_milliseconds_holds_the_baselines_spread() -> None:
    """A target within the ratio's interval alone is not met where the baseline's own milliseconds may be others."""
    steady = latency(0.49, 0.50, 0.51)
    varied = replace(steady, baseline_spread=0.15)
    assert steady.meets(steady.high_ms)
    assert not varied.meets(steady.high_ms)
    assert varied.high_ms == pytest.approx(5.0 + math.hypot(steady.high_ms - 5.0, 0.15 * 5.0))
    assert varied.low_ms == pytest.approx(5.0 - math.hypot(5.0 - steady.low_ms, 0.15 * 5.0))
    assert (varied.least_ms, varied.most_ms) == (steady.low_ms, steady.high_ms)
    assert varied.half_width == steady.half_width


def test_ties_leave_out_what_is_common_to_all() -> None:
    """The baseline's spread moves all models together, so it ties none."""
    slow, fast = (replace(latency(r, r, r), baseline_spread=0.2) for r in (0.50, 0.45))
    assert fast.high_ms > slow.low_ms
    assert not slow.tied(fast)


def test_contention_shows() -> None:
    """Most windows decide, not one of them."""
    quiet, busy = (Window(baseline_ns=(1,), candidate_ns=(1,), contention=w) for w in (1.0, 1.5))
    assert not Latency(windows=(quiet, quiet, busy), baseline_ms=1.0).contended
    assert Latency(windows=(quiet, busy, busy), baseline_ms=1.0).contended


def test_what_is_joined_has_the_worst_of_both_environments() -> None:
    """A training that ran beside one of two processes is kept for both together, in whatever order."""
    quiet = {"trainers_paused": "yes", "load_after": "9.50", "windows_measured_again": "1", "started": "1", "cpu": "a"}
    busy = {"trainers_paused": "no", "load_after": "10.25", "windows_measured_again": "2", "started": "2", "cpu": "a"}
    for one, other in ((quiet, busy), (busy, quiet)):
        joined = replace(latency(0.5, 0.5), environment=one).joined(replace(latency(0.5, 0.5), environment=other))
        assert joined.environment == {**busy, "windows_measured_again": "3", "started": "1"}
        assert any("did not pause" in doubt for doubt in joined.doubts)
    assert replace(latency(0.5, 0.5), environment=quiet).doubts == ()


@pytest.mark.parametrize(
    ("plan", "step", "processes"),
    [(SEARCH, 1, 1), (SEARCH, 1, 3), (CAREFUL, 1, 1), (ROUNDS, ROUND.max_windows, 1)],
    ids=["once", "thrice", "careful", "rounds"],
)
@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
def test_the_interval_holds_the_truth_as_often_as_it_says(plan: Plan, step: int, processes: int, noise: float) -> None:
    """Nineteen times of twenty, or hardly less, though the windows stop when the interval looks narrow enough."""
    rng, held, tries = np.random.default_rng(7), 0, 1500
    for _ in range(tries):
        ratios: list[float] = []
        for _ in range(processes):
            own: list[float] = list(rng.normal(1.0, noise, plan.min_windows))
            while not settled(own, plan):
                own += list(rng.normal(1.0, noise, step))
            ratios += own
        found = latency(*ratios)
        held += found.least_ms <= 10.0 <= found.most_ms
    assert held / tries >= (0.905 if processes == 1 and plan is SEARCH else 0.93)


def test_a_process_has_luck_of_its_own() -> None:
    """A measurement of one process is less sure than its windows look, and more processes make it surer."""
    windows = tuple(Window(baseline_ns=(100,), candidate_ns=(c,)) for c in (49, 50, 51))
    exact = Latency(windows=windows, baseline_ms=10.0)
    one = replace(exact, processes=1)
    assert one.half_width == pytest.approx(math.hypot(exact.half_width, 0.5 * placement(5.0)))
    two = one.joined(one)
    assert two.processes == 2
    assert two.half_width < one.half_width
    assert two.ratio == one.ratio


TIMED = st.builds(
    lambda ratios, processes, spread: replace(latency(*ratios), processes=processes, baseline_spread=spread),
    st.lists(st.floats(0.02, 2.0), min_size=2, max_size=6),
    st.integers(1, 3),
    st.floats(0.0, 0.3),
)


@given(TIMED, st.floats(0.0, 1.0))
def test_what_the_interval_holds_is_never_clear(found: Latency, where: float) -> None:
    """A target within a model's interval leaves open whether it is met."""
    target_ms = found.least_ms + where * (found.most_ms - found.least_ms)
    if found.least_ms <= target_ms < found.most_ms:
        assert not found.placed(target_ms)


@given(TIMED, st.floats(0.01, 50.0))
def test_what_is_clear_is_inside_or_outside(found: Latency, target_ms: float) -> None:
    """A model that is placed meets the target with all that it claims, or misses it with all of its interval."""
    if found.placed(target_ms):
        assert (found.high_ms <= target_ms) != (found.least_ms > target_ms)


@given(TIMED, st.floats(0.01, 50.0))
def test_one_more_process_makes_surer(found: Latency, target_ms: float) -> None:
    """With the same windows the interval is narrower, so that what was open may become clear, and not the reverse."""
    more = replace(found, processes=found.processes + 1)
    assert (found.least_ms, more.most_ms) <= (more.least_ms, found.most_ms)
    assert more.placed(target_ms) or not found.placed(target_ms)


@given(st.lists(st.floats(0.1, 5.0), min_size=2, max_size=5), st.floats(0.01, 1.0), st.floats(0.0, 0.5))
def test_a_bridge_brings_its_ratio_and_its_doubt(ratios: list[float], bridge: float, doubt: float) -> None:
    """Ratios to a bridge times its own are those to the baseline, and what is relative in both adds in quadrature."""
    to_bridge = tuple(Window(baseline_ns=(1.0,), candidate_ns=(ratio,), bridge=bridge) for ratio in ratios)
    to_baseline = tuple(Window(baseline_ns=(1.0,), candidate_ns=(ratio * bridge,)) for ratio in ratios)
    bridged, direct = (
        Latency(windows=windows, baseline_ms=10.0, processes=1, bridge_spread=spread)
        for windows, spread in ((to_bridge, doubt), (to_baseline, 0.0))
    )
    assert bridged.ratio == pytest.approx(direct.ratio)
    relative = direct.half_width / direct.ratio
    assert bridged.half_width / bridged.ratio == pytest.approx(math.hypot(relative, doubt))
    more = bridged.joined(bridged)
    assert more.half_width >= more.ratio * doubt
    assert bridged.joined(direct).bridge_spread == doubt


def test_a_record_from_before_bridges_is_read() -> None:
    """Its windows were timed against the baseline."""
    outcome = (Measurement(accuracy=0.5, latency=latency(0.5, 0.6), size_bytes=1, params=1, macs=1),)
    record = json.loads(to_json(outcome))
    del record["latency"]["bridge_spread"]
    for window in record["latency"]["windows"]:
        assert window.pop("bridge") == 1.0
    assert from_json(json.dumps(record)) == outcome


@given(st.floats(0.01, 1e4))
def test_luck_matters_more_to_fast_models(median_ms: float) -> None:
    """Between 3 % and 15 %, never less for a faster one."""
    assert 0.03 <= placement(median_ms) <= 0.12
    assert placement(median_ms) >= placement(2 * median_ms)


def test_a_record_keeps_its_format() -> None:
    """The first measurement's fields are the record's own, and those of the other deployments are in ``elsewhere``."""
    fields = {"accuracy": 0.9, "size_bytes": 1, "params": 1, "macs": 1}
    first, other = (
        Measurement(**fields, latency=replace(latency(ratio, ratio), device=device))  # type: ignore[arg-type]
        for ratio, device in ((0.7, "edge"), (0.5, "gpu0"))
    )
    record = json.loads(to_json((first, other)))
    assert record["kind"] == "measurement"
    assert record["latency"]["device"] == "edge"
    assert [each["latency"]["device"] for each in record["elsewhere"]] == ["gpu0"]
    assert record["elsewhere"][0]["elsewhere"] == []
