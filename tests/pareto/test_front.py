"""The front that is reported, its recommended model and its table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autocompress.evaluators.measurement import Latency, Measurement, Window
from autocompress.evaluators.scores import packed
from autocompress.pareto.front import ParetoFront, select
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import Model
from autocompress.spaces.candidate import Candidate

COLUMNS = {
    *("id", "meets_target", "latency_ms", "latency_low_ms", "latency_high_ms", "accuracy", "test_accuracy"),
    *("size_bytes", "params", "macs", "path"),
}


def measured(*, accuracy: float = 0.9, ms: float = 1.0, size: int = 1000, spread: float = 0.0) -> Measurement:
    """Return a measurement with a latency interval of about ms · (1 ± 2.5 · spread)."""
    windows = tuple(
        Window(baseline_ns=(10**9,), candidate_ns=(round(ms * 1e8 * (1 + i * spread)),)) for i in (-1, 0, 1)
    )
    latency = Latency(windows=windows, baseline_ms=10.0)
    return Measurement(accuracy=accuracy, latency=latency, size_bytes=size, params=10, macs=100)


def front_of(*measurements: Measurement, target_ms: float = 5.0) -> ParetoFront:
    """Return a front with these models, whose ids are their positions."""
    models = [
        Model(id=f"{i:05d}", candidate=Candidate(), measurements=(m,), path=f"models/{i:05d}")
        for i, m in enumerate(measurements)
    ]
    baseline = Model(
        id="baseline", candidate=Candidate(), measurements=(measured(ms=10.0),), role="baseline", path="baseline"
    )
    return ParetoFront(limits=Limits(target_ms), baseline=baseline, models=tuple(models))


def test_front_prefers_what_meets_the_target() -> None:
    """A better model that is too slow, or only perhaps fast enough, keeps none off the front."""
    slow, unsure = measured(accuracy=0.99, ms=6.0, size=1), measured(accuracy=0.98, ms=4.9, size=1, spread=0.1)
    fine, fast = measured(accuracy=0.9, ms=4.0), measured(accuracy=0.8, ms=2.0)
    assert select([slow, fine, unsure, fast], Limits(5.0)) == [3, 1]


def test_front_falls_back_to_the_nearest() -> None:
    """Where nothing meets the target, the front is what is non-dominated among all, fastest first."""
    rows = [measured(accuracy=0.9, ms=8.0), measured(accuracy=0.8, ms=6.0), measured(accuracy=0.7, ms=7.0)]
    assert select(rows, Limits(5.0)) == [1, 0]
    assert select([], Limits(5.0)) == []


def test_front_keeps_equals() -> None:
    """Two models with the same numbers are both shown."""
    assert select([measured(), measured()], Limits(5.0)) == [0, 1]


def test_recommended_is_the_most_accurate_that_meets_the_target() -> None:
    """Of equally accurate models the faster one is recommended."""
    front = front_of(
        measured(accuracy=0.80, ms=1.0),
        measured(accuracy=0.90, ms=3.0, size=900),
        measured(accuracy=0.90, ms=2.0, size=1000),
        measured(accuracy=0.99, ms=6.0),
    )
    assert front.meets_target
    assert front.recommended is front.models[2]


def test_chance_alone_recommends_no_slower_model() -> None:
    """A model comes before a slower one that beats it by no more than a standard error on the same examples."""

    def scored(lost: int, won: int, ms: float) -> Measurement:
        scores = np.repeat([0.0, 1.0, 0.0], [lost, 160 - lost + won, 40 - won])
        return replace(measured(accuracy=float(scores.mean()), ms=ms), scores=packed(scores))

    front = front_of(scored(20, 2, 1.0), scored(3, 2, 2.0), scored(0, 0, 4.0))
    assert front.recommended is front.models[1]
    assert front.most_accurate is front.models[2]
    by_number = [replace(model.measurement, scores="") for model in front.models]
    assert front_of(*by_number).recommended == front_of(*by_number).models[2]


def test_nothing_slower_than_the_unchanged_network_is_recommended_for_being_as_good() -> None:
    """Where all that is as accurate is slower, the unchanged network itself is recommended."""
    front = front_of(measured(ms=11.0, size=10), target_ms=20.0)
    assert front.recommended is front.baseline
    assert front_of(measured(ms=9.0, size=2000), target_ms=20.0).recommended != front.baseline
    assert front_of(measured(ms=11.0, accuracy=0.95), target_ms=20.0).recommended != front.baseline


@st.composite
def fronts(draw: st.DrawFn) -> ParetoFront:
    """Draw a front of models on the same examples, with a baseline that may be better than all of them."""

    def model(name: str, role: str) -> Model:
        right = draw(st.lists(st.booleans(), min_size=30, max_size=30))
        scores = np.array(right, dtype=np.float64)
        known = draw(st.booleans())
        found = measured(accuracy=float(scores.mean()), ms=draw(st.integers(1, 12)), size=draw(st.integers(1, 3)))
        found = replace(found, scores=packed(scores) if known else "")
        return Model(id=name, candidate=Candidate(), measurements=(found,), role=role)

    models = tuple(model(f"{i:05d}", "front") for i in range(draw(st.integers(1, 8))))
    limits = Limits(
        draw(st.integers(1, 12)),
        min_accuracy=draw(st.none() | st.sampled_from([0.4, 0.5, 0.6])),
        max_size_bytes=draw(st.none() | st.just(2.0)),
    )
    return ParetoFront(limits=limits, baseline=model("baseline", "baseline"), models=models)


@given(fronts())
def test_no_slower_model_than_one_as_accurate_is_recommended(front: ParetoFront) -> None:
    """Whatever meets the limits and is faster than the recommended model is less accurate."""
    best, every = front.recommended, [*front.models, front.baseline]
    assert best is not None
    assert front.meets(best) == any(map(front.meets, every))
    for other in every:
        if front.meets(other) and other.measurement.latency.median_ms < best.measurement.latency.median_ms:
            assert other.measurement.accuracy < best.measurement.accuracy
        if not front.meets(best):
            assert front.limits.distance(best.measurement) <= front.limits.distance(other.measurement)


def test_the_unchanged_network_meets_the_target_too() -> None:
    """Where no model meets the limits and the unchanged network does, the target is met, and it is recommended."""
    front = front_of(measured(ms=30.0), target_ms=20.0)
    assert front.meets_target
    assert front.recommended is front.baseline
    assert not front_of(measured(ms=30.0), target_ms=5.0).meets_target
    assert front_of(measured(ms=30.0), target_ms=5.0).recommended == front_of(target_ms=5.0).baseline


def test_the_unit_is_told_by_all_that_was_measured() -> None:
    """A metric is a share while all its values lie between 0 and 1, and what the task says goes before that."""
    assert front_of(measured(accuracy=0.7)).unit == "%"
    assert front_of(measured(accuracy=-3.2)).unit == ""
    assert front_of(replace(measured(accuracy=0.7), test_accuracy=1.2)).unit == ""
    told = front_of(measured(accuracy=0.7))
    assert replace(told, limits=replace(told.limits, unit="dB")).unit == "dB"


def test_recommended_falls_back_to_the_nearest() -> None:
    """Where nothing meets the target the fastest is recommended; of nothing, nothing."""
    front = front_of(measured(accuracy=0.9, ms=8.0), measured(accuracy=0.8, ms=7.0))
    assert not front.meets_target
    assert front.recommended is front.models[1]
    assert front_of().recommended is None


def test_ties_name_the_others_whose_interval_overlaps() -> None:
    """A model is never tied with itself."""
    front = front_of(measured(ms=3.0, spread=0.05), measured(ms=3.1, spread=0.05), measured(ms=1.0))
    assert front.tied(front.models[0]) == ("00001",)
    assert front.tied(front.models[2]) == ()


def test_table_holds_the_baseline_and_every_model() -> None:
    """`to_pandas` gives one row a model, the baseline first, with the columns that are promised."""
    table = front_of(measured(ms=4.0, spread=0.01), measured(ms=6.0)).to_pandas()
    assert set(table.columns) >= COLUMNS
    assert table["id"].tolist() == ["baseline", "00000", "00001"]
    assert table["meets_target"].tolist() == [False, True, False]
    assert table["latency_ms"].tolist() == [10.0, 4.0, 6.0]
    assert (table["latency_low_ms"] <= table["latency_ms"]).all()
    assert (table["latency_ms"] <= table["latency_high_ms"]).all()
    assert table["path"].tolist() == ["baseline", "models/00000", "models/00001"]


def test_a_notebook_shows_a_sentence_and_a_table() -> None:
    """The sentence names the recommended model, the table has a row for each, and user text stays text."""
    front = front_of(measured(ms=2.0), measured(ms=3.0, accuracy=0.95))
    shown = front._repr_html_()
    assert front.recommended is not None
    assert shown.startswith(f"<p>{front.recommended.id} meets 5 ms: ")
    assert shown.count("<tr") == 2 + len(front.models)
    assert all(model.id in shown for model in front.models)
    wicked = replace(front.models[0], id="<script>alert(1)</script>")
    assert "<script" not in replace(front, models=(wicked,))._repr_html_()
    assert "No candidate could be measured completely" in front_of()._repr_html_()
