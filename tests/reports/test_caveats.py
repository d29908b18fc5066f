"""Caveats say why a number should not be trusted."""

from __future__ import annotations

from dataclasses import replace

from autocompress.pareto.limits import Limits
from autocompress.reports.caveats import caveats
from autocompress.reports.rows import ExampleCounts

from .conftest import ABOUT, Tell


def test_a_latency_of_one_window_is_not_known_to_infinity_per_cent(tell: Tell) -> None:
    """What has no interval is reported in words."""
    told = tell()
    best = told.front.recommended
    assert best is not None
    latency = replace(best.measurement.latency, windows=best.measurement.latency.windows[:1])
    models = (replace(best, measurements=(replace(best.measurement, latency=latency),)),)
    warnings = replace(told, front=replace(told.front, models=models)).data()["warnings"]
    assert f"Model {best.id}: the uncertainty of the latency is unknown." in warnings
    assert not any("inf" in warning for warning in warnings)


def test_doubts_name_what_is_wrong(tell: Tell) -> None:
    """An unfinished run, a wide interval, a contended measurement and a fall on the test data are each told."""
    told = tell()
    best = told.front.recommended
    assert best is not None
    latency = best.measurement.latency
    wide = replace(latency, windows=(*latency.windows, replace(latency.windows[0], candidate_ns=(1.0,), contention=3)))
    wide = replace(wide, windows=tuple(replace(window, contention=2.0) for window in wide.windows))
    wide = replace(wide, environment={"trainers_paused": "no"})
    worse = replace(best, measurements=(replace(best.measurement, latency=wide, test_accuracy=0.5, warnings=("odd",)),))
    models = tuple(worse if model == best else model for model in told.front.models)
    front = replace(told.front, models=models, limits=Limits(1e9))
    data = replace(told, front=front).data(replace(ABOUT, state="interrupted"))
    said = "\n".join(data["warnings"])
    for part in (
        "was interrupted",
        "is only known to ±",
        "other programs ran",
        "more on the test data",
        f"{best.id}: odd.",
    ):
        assert part in said
    assert caveats(told.front, {**data, "state": "finished"}, ExampleCounts()) != data["warnings"]
