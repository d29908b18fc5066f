"""What a model must meet: excesses, what is cut, what holds for other limits than those of its day."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.evaluators.ladder.resources import too_much
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Window, cut, deciding, known, ranked
from autocompress.evaluators.outcome_json import from_json, to_json
from autocompress.evaluators.scores import packed
from autocompress.pareto.limits import Limits, merged

LATENCY = Latency(windows=(Window(baseline_ns=(10**9,), candidate_ns=(4 * 10**8,)),) * 3, baseline_ms=10.0)
UNSURE = Latency(
    windows=tuple(Window(baseline_ns=(10**9,), candidate_ns=(c * 10**7,)) for c in (38, 40, 42)), baseline_ms=10.0
)
ALL = Limits(5.0, min_accuracy=0.88, max_size_bytes=4e6, max_memory_bytes=6e7, max_energy_mj=5.0)
FINE = Measurement(
    accuracy=0.9, latency=LATENCY, size_bytes=3_000_000, params=1, macs=1, memory_bytes=50_000_000, energy_mj=4.0
)

values = st.floats(1e-3, 1e9)
maybe = st.none() | values


@st.composite
def measurements(draw: st.DrawFn) -> Measurement:
    """Draw a measurement of which some numbers may be missing."""
    latency = Latency(
        windows=tuple(
            Window(baseline_ns=(10**6,), candidate_ns=(ns,))
            for ns in draw(st.lists(st.integers(10**3, 10**9), min_size=2, max_size=4))
        ),
        baseline_ms=1.0,
    )
    memory = draw(st.none() | st.integers(1, 10**9))
    return Measurement(
        accuracy=draw(st.floats(-1e3, 1e3)),
        latency=latency,
        size_bytes=draw(st.integers(0, 10**9)),
        params=1,
        macs=1,
        memory_bytes=memory,
        energy_mj=draw(maybe),
    )


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    """Draw limits of which some are not asked for."""
    return Limits(
        draw(values),
        min_accuracy=draw(st.none() | st.floats(-1e3, 1e3)),
        max_size_bytes=draw(maybe),
        max_memory_bytes=draw(maybe),
        max_energy_mj=draw(maybe),
    )


@given(limits(), measurements())
def test_what_is_met_is_its_definition(asked: Limits, measured: Measurement) -> None:
    """A measurement meets the limits where no excess is above 0, and that is where every number is within its own."""
    costs = [
        (measured.latency.high_ms, asked.target_ms),
        (measured.size_bytes, asked.max_size_bytes),
        (measured.memory_bytes, asked.max_memory_bytes),
        (measured.energy_mj, asked.max_energy_mj),
    ]
    within = all(most is None or (value is not None and value <= most) for value, most in costs)
    within &= asked.min_accuracy is None or measured.accuracy >= asked.min_accuracy
    assert asked.satisfied_by(measured) == all(excess <= 0 for excess in asked.violations(measured).values()) == within


@given(limits(), measurements(), st.sampled_from([f.name for f in fields(Limits)]), st.floats(1, 100))
def test_a_looser_limit_loses_nothing(asked: Limits, measured: Measurement, name: str, factor: float) -> None:
    """What meets limits meets them when one is loosened, or taken away."""
    before = getattr(asked, name)
    if before is None:
        return
    looser = before - factor if name == "min_accuracy" else before * factor
    for milder in (replace(asked, **{name: looser}), replace(asked, **{name: 1e300 if name == "target_ms" else None})):
        assert milder.satisfied_by(measured) or not asked.satisfied_by(measured)


@given(limits(), measurements())
def test_what_is_cut_meets_nothing(asked: Limits, measured: Measurement) -> None:
    """A candidate is certainly too costly only where it does not meet the limits."""
    assert not (asked.surely_violated_by(measured) and asked.satisfied_by(measured))


@pytest.mark.parametrize(
    ("name", "worse", "excess"),
    [
        ("latency", {"latency": replace(LATENCY, baseline_ms=15.0)}, 0.2),
        ("accuracy", {"accuracy": 0.44}, 0.5),
        ("size", {"size_bytes": 5_000_000}, 0.25),
        ("memory", {"memory_bytes": 66_000_000}, 0.1),
        ("memory", {"memory_bytes": None}, 1.0),
        ("energy", {"energy_mj": 7.5}, 0.5),
    ],
)
def test_each_limit_is_a_share_of_itself(name: str, worse: dict[str, float], excess: float) -> None:
    """Each limit alone decides; the excess is relative to it, and what is unknown is missed."""
    assert ALL.satisfied_by(FINE)
    measured = replace(FINE, **worse)  # type: ignore[arg-type]
    assert not ALL.satisfied_by(measured)
    assert {key for key, value in ALL.violations(measured).items() if value > 0} == {name}
    assert ALL.largest(measured) == pytest.approx(excess)
    (reason,) = ALL.reasons(measured, [FINE, measured])
    assert f"It misses: {name} " in reason


def test_only_what_was_asked_for_counts() -> None:
    """Without limits beside the target only the latency decides, and nothing else has to be measured."""
    alone = Limits(5.0)
    assert set(alone.violations(FINE)) == {"latency"}
    assert (alone.several, alone.measured) == (False, ())
    assert (ALL.several, ALL.measured) == (True, ("memory", "energy"))


def test_a_latency_is_cut_by_its_lower_end_and_met_by_its_upper() -> None:
    """Between the two a candidate is neither: it continues, and is not reported as one that meets the target."""
    unsure = replace(FINE, latency=UNSURE)
    assert not Limits(UNSURE.median_ms).surely_violated_by(unsure)
    assert not Limits(UNSURE.median_ms).satisfied_by(unsure)
    assert Limits(UNSURE.low_ms * 0.99).surely_violated_by(unsure)
    assert Limits(UNSURE.high_ms).satisfied_by(unsure)


def test_the_baselines_spread_is_in_what_is_met_and_not_in_what_is_cut() -> None:
    """A model that only the machine's mood may make too slow continues; it misses the target, with the reason."""
    moody = replace(FINE, latency=replace(LATENCY, baseline_spread=0.3))
    asked = Limits(4.5)
    assert asked.satisfied_by(FINE)
    assert not asked.satisfied_by(moody)
    assert not asked.surely_violated_by(moody)
    assert Limits(3.9).surely_violated_by(moody)
    assert any("as a ratio it would do" in reason and "±30%" in reason for reason in asked.reasons(moody, [moody]))
    assert not any("as a ratio" in reason for reason in Limits(3.9).reasons(moody, [moody]))


def test_a_change_is_to_the_unchanged_network() -> None:
    """A difference becomes a least accuracy once the baseline's is known, and limits nothing before."""
    asked = Limits(5.0, min_change=-0.02)
    assert "accuracy" not in asked.violations(FINE)
    assert asked.several
    assert asked.against(None) == asked
    assert asked.against(FINE) == Limits(5.0, min_accuracy=pytest.approx(0.88))
    assert Limits(5.0, min_accuracy=0.5).against(FINE) == Limits(5.0, min_accuracy=0.5)


def scored(right: int, *, wrong_before: int = 0, examples: int = 1000) -> Measurement:
    """Return a measurement that has so many examples right, which are not the first ones."""
    scores = np.zeros(examples)
    scores[wrong_before : wrong_before + right] = 1
    return replace(FINE, accuracy=float(scores.mean()), scores=packed(scores))


def test_an_accuracy_is_judged_on_the_same_examples_as_the_unchanged_networks() -> None:
    """Of two models of one accuracy, the one that answers like the unchanged network is surer to lose no more."""
    baseline = scored(900)
    asked = Limits(5.0, min_change=-0.01).against(baseline)
    alike, other = scored(893), scored(893, wrong_before=60)
    assert alike.accuracy == other.accuracy == 0.893
    assert asked.satisfied_by(baseline)
    assert asked.satisfied_by(alike)  # 7 lost, none won: 0.7 points and an error of 0.26
    assert not asked.satisfied_by(other)  # 60 lost, 53 won: an error of 1.06
    assert asked.satisfied_by(replace(other, scores=""))  # a metric that gives but one number decides by that
    assert "89.30% less 1.06% of standard error" in asked.verdicts(other)["accuracy"]
    assert asked.asked == {**Limits(5.0).asked, "min_accuracy": pytest.approx(0.89)}
    assert asked.against(baseline) == asked
    assert merged(asked, {"target_ms": 4.0}).satisfied_by(replace(alike, latency=replace(LATENCY, baseline_ms=9.0)))
    assert Limits(5.0).against(baseline) == Limits(5.0)


@pytest.mark.parametrize(
    ("outcome", "loose", "strict"),
    [
        (Infeasible(reason="", rung="latency", latency=LATENCY), Limits(4.1), Limits(3.9)),
        (
            Infeasible(reason="", rung="size", latency=LATENCY, size_bytes=10),
            Limits(5.0, max_size_bytes=10),
            Limits(5.0, max_size_bytes=9),
        ),
        (
            Infeasible(reason="", rung="memory", latency=LATENCY, size_bytes=10, memory_bytes=99),
            Limits(5.0),
            Limits(5.0, max_size_bytes=9, max_memory_bytes=100),
        ),
        (
            Infeasible(reason="", rung="energy", latency=LATENCY, energy_mj=2.0),
            Limits(5.0, max_energy_mj=2.5),
            Limits(5.0, max_energy_mj=1.5),
        ),
    ],
)
def test_a_cut_holds_while_some_limit_would_cut_again(outcome: Infeasible, loose: Limits, strict: Limits) -> None:
    """What was cut is tried again only where nothing that is known of it is over a limit of today."""
    assert cut(outcome)
    assert not loose.still_valid(outcome)
    assert strict.still_valid(outcome)
    assert from_json(to_json(outcome)) == outcome


def test_what_failed_is_never_put_back() -> None:
    """A reason that is no cost holds for any limits, also where it ended on the rung of one."""
    for failed in (
        Infeasible(reason="the loss became nan", rung="train", latency=LATENCY),
        Infeasible(reason="it crashed", rung="latency"),
        Infeasible(reason="its runtime does not tell", rung="memory", latency=LATENCY),
    ):
        assert not cut(failed)
        assert Limits(1e9).still_valid(failed)


def test_what_lacks_a_number_does_not_hold_where_that_may_decide() -> None:
    """A measurement without its memory is measured again for a limit of that, unless it misses another limit anyway."""
    old = replace(FINE, memory_bytes=None)
    asked = Limits(5.0, max_memory_bytes=6e7)
    assert Limits(5.0).still_valid((old,))
    assert not asked.still_valid((old,))
    assert asked.lacks_measurement((old,))
    assert asked.still_valid((FINE,))
    assert replace(asked, max_size_bytes=10).still_valid((old,))


def test_of_several_runtimes_the_nearest_counts() -> None:
    """The fastest of those that meet all limits comes first, though another is faster."""
    fast = replace(FINE, latency=replace(LATENCY, baseline_ms=1.0, runtime="fast"), memory_bytes=10**9)
    slow = replace(FINE, latency=replace(LATENCY, baseline_ms=12.0, runtime="slow"))
    each = fast, replace(FINE, memory_bytes=None), slow
    assert [m.deployment.runtime for m in ranked(each, ALL.distance)] == ["slow", "onnxruntime", "fast"]
    assert ranked(each, Limits(5.0).distance)[0].deployment.runtime == "fast"
    assert deciding((FINE,), ALL.distance) == FINE


def test_a_metric_that_is_no_share_is_said_as_a_number() -> None:
    """A least error or a least number of decibels is asked for, missed and told on the metric's own scale."""
    asked = Limits(5.0, min_accuracy=-0.35)
    assert str(asked) == "5 ms, metric -0.35"
    assert asked.verdicts(replace(FINE, accuracy=-0.412))["accuracy"] == "metric -0.412, 0.062 under -0.35"
    assert str(Limits(5.0, min_accuracy=27.5)) == "5 ms, metric 27.5"


def test_limits_are_told_in_the_metrics_unit() -> None:
    """Values, differences and errors have the unit that the task says, and limits are the same in any."""
    asked = Limits(5.0, min_accuracy=30.0, unit="dB")
    assert str(asked) == "5 ms, metric 30 dB"
    assert asked.verdicts(replace(FINE, accuracy=29.4))["accuracy"] == "metric 29.4 dB, 0.6 dB under 30 dB"
    change = Limits(5.0, min_change=-0.5, unit="dB")
    assert str(change) == "5 ms, -0.5 dB in the metric"
    assert str(change.against(replace(FINE, accuracy=30.27))) == "5 ms, metric 29.77 dB"
    assert str(Limits(5.0, min_change=-0.005, unit="%")) == "5 ms, -0.50% accuracy"
    assert str(Limits(5.0, min_change=-20.0, unit="")) == "5 ms, -20 in the metric"
    assert replace(asked, unit=None) == asked


def test_the_unit_is_told_by_what_was_measured_where_the_task_does_not_say_it() -> None:
    """A metric is a share as long as nothing else was seen, also before training and on the test data."""
    asked, share = Limits(5.0), replace(FINE, accuracy=0.8)
    assert asked.told_by([share]).unit == "%"
    others = ({"accuracy": -0.1}, {"test_accuracy": 1.5}, {"one_shot_accuracy": -2.0})
    for other in (replace(share, **values) for values in others):  # type: ignore[arg-type]
        assert asked.told_by([share, other]).unit == ""
        assert replace(asked, unit="%").told_by([share, other]).unit == "%"


def test_a_cost_far_over_its_limit_is_so_many_times_it() -> None:
    """Nobody reads 7.56e+04 per cent."""
    far = Limits(0.001, max_size_bytes=100.0).verdicts(FINE)
    assert far["latency"] == "latency up to 4 ms, 4000× the limit of 0.001 ms"
    assert far["size"] == "size 3 MB, 30000× the limit of 0.1 kB"
    assert Limits(0.3).verdicts(FINE)["latency"] == "latency up to 4 ms, 13.3× the limit of 0.3 ms"
    assert Limits(1.0).verdicts(FINE)["latency"] == "latency up to 4 ms, 300% over 1 ms"


def test_a_search_aims_at_what_meets_a_least_accuracy_with_its_error() -> None:
    """A model that just reaches the aim by losing right answers meets the limit, and one that reaches the limit not."""
    baseline = scored(900)
    asked = Limits(5.0, min_change=-0.01).against(baseline)
    assert asked.aim is not None
    reached = round(1000 * asked.aim + 0.5)
    assert 890 < reached < 900
    assert asked.satisfied_by(scored(reached))
    assert not asked.satisfied_by(scored(890))
    assert Limits(5.0, min_accuracy=0.89).aim == 0.89
    assert Limits(5.0).aim is None


def test_everything_is_said_in_its_unit() -> None:
    """Limits, verdicts and reasons name value and limit."""
    assert str(ALL) == "5 ms, 4 MB, 60 MB of memory, 5 mJ, 88.00% accuracy"
    assert str(Limits(5.0, min_change=-0.005)) == "5 ms, -0.50% accuracy"
    assert too_much("size", 4_480_000, 4e6) == "its size of 4.48 MB is over the limit of 4 MB"
    worse = replace(FINE, accuracy=0.836, energy_mj=6.0, memory_bytes=None)
    assert list(ALL.verdicts(worse).values()) == [
        "latency up to 4 ms (at most 5 ms)",
        "size 3 MB (at most 4 MB)",
        "memory unknown (at most 60 MB)",
        "energy 6 mJ, 20% over 5 mJ",
        "accuracy 83.60%, 4.4 points under 88.00%",
    ]
    assert ALL.reasons(worse, [FINE, worse])[1:] == (
        "  It misses: energy 6 mJ, 20% over 5 mJ; the best measured value: 4 mJ.",
        "  It misses: accuracy 83.60%, 4.4 points under 88.00%; the best measured value: 90.00%.",
    )
    assert known(worse, "memory") is None
