"""What a report tells, as plain data."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import autocompress.reports.search_history as course_module
from autocompress.pareto.limits import Limits
from autocompress.pareto.objectives import front_hypervolume
from autocompress.reports.caveats import caveats
from autocompress.reports.importance import LEAST_TRIALS, importances
from autocompress.reports.layers import changes
from autocompress.reports.rows import ExampleCounts
from autocompress.reports.search_history import Busy, search_history
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run import Trial

from .conftest import ABOUT, BEGAN, Tell

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "reports" / "schema.json").read_text())


def valid(data: dict[str, Any]) -> bool:
    """Return whether data, written and read again, is as the schema has it."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(data, allow_nan=False)))
    return True


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"count": 1},
        {"ended": False},
        {"target_ms": 0.5},
        {"broken": "no such operator"},
        {"runtimes": ("one", "two")},
    ],
    ids=str,
)
def test_the_schema_describes_every_kind_of_run(how: dict[str, Any], tell: Tell) -> None:
    """A run that ended, of one trial, unfinished, without a feasible model, with failures, on two runtimes: all fit."""
    assert valid(tell(**how).data())


def test_the_schema_refuses_what_it_does_not_know(tell: Tell) -> None:
    """A field more, or one of another kind, is an error."""
    data = tell(10).data()
    for wrong in ({**data, "surprise": 1}, {**data, "schema": 2}, {**data, "warnings": None}):
        with pytest.raises(jsonschema.ValidationError):
            valid(wrong)


def test_every_field_is_in_the_documentation() -> None:
    """docs/report.md names each field of the schema."""
    text = (ROOT / "docs" / "report.md").read_text()

    def names(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = set(node["properties"]) if isinstance(node.get("properties"), dict) else set()
            return own.union(*map(names, node.values()))
        return set().union(*map(names, node)) if isinstance(node, list) else set()

    assert {name for name in names(SCHEMA) if f"`{name}`" not in text} == set()


def test_the_recommended_model_and_its_gain_are_those_of_the_front(tell: Tell) -> None:
    """The headline's model is the front's, its gain the inverse ratio and the difference on the test data."""
    told = tell()
    data, best = told.data(), told.front.recommended
    assert best is not None
    headline = data["headline"]
    point = next(point for point in data["points"] if point["key"] == headline["model"])
    assert point["id"] == best.id
    assert headline["faster"] == pytest.approx(1 / best.measurement.latency.ratio, rel=1e-4)
    assert headline["accuracy_on"] == "test"
    assert best.measurement.test_accuracy is not None
    assert told.front.baseline.measurement.test_accuracy is not None
    change = best.measurement.test_accuracy - told.front.baseline.measurement.test_accuracy
    assert headline["accuracy_change"] == pytest.approx(change, abs=1e-6)
    low, high = headline["accuracy_change_interval"]
    assert low < change < high


def test_every_trial_is_told_once(tell: Tell) -> None:
    """Each finished trial has one row, and the models of the front are of kind front with their files."""
    told = tell(broken="no")
    points = told.data()["points"]
    assert sorted(point["trial"] for point in points) == [trial.number for trial in told.trials]
    front = {point["id"] for point in points if point["kind"] == "front"}
    assert front == {model.id for model in told.front.models if model.role == "front"}
    assert all(point["path"] for point in points if point["kind"] in ("front", "obvious", "baseline"))
    assert not any(point["path"] for point in points if point["kind"] in ("trial", "infeasible"))


def test_on_several_runtimes_each_has_its_front(tell: Tell) -> None:
    """The first front is that of all; the others name their runtime, and only rows on it."""
    told = tell(runtimes=("one", "two"))
    data = told.data()
    assert [front["runtime"] for front in data["fronts"]] == ["", "one", "two"]
    points = {point["key"]: point for point in data["points"]}
    for front in data["fronts"][1:]:
        assert {points[key]["runtime"] for key in (front["baseline"], *front["models"])} == {front["runtime"]}


def test_layers_add_up_to_what_the_profile_predicts(tell: Tell) -> None:
    """The estimated milliseconds of the layers and the rest are the profile's prediction of the whole."""
    told = tell()
    for trial in told.trials[:20]:
        assert trial.candidate is not None
        parts = told.profile.costs.predict_layers_ms(told.profile.network, trial.candidate)
        total = sum(parts.values()) + told.profile.costs.other_ms
        assert total == pytest.approx(told.profile.predict_ms(trial.candidate))


def test_only_layers_that_change_are_told(tell: Tell) -> None:
    """A pruned group shows in its layer and in the one that reads it; damages are looked up by the trial's levels."""
    profile = tell().profile
    first, second, *_ = (layer.name for layer in profile.network.layers)
    levels = dict.fromkeys(profile.damage, 0) | {f"pruning_ratio:{first}": 2}
    found = changes(profile, Candidate({"pruning_ratio": {first: 0.5}}), levels)
    assert set(found) == {first, second}
    assert found[first]["pruned"] == found[second]["pruned_inputs"] == 0.5
    assert found[first]["damage"] == pytest.approx(profile.damage[f"pruning_ratio:{first}"][2], abs=1e-6)
    assert found[first]["ms"] == pytest.approx(0.5 * profile.costs.layer_ms[first], abs=1e-5)


def test_the_hypervolume_ends_with_that_of_all_models(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never falls, ends with that of all that meet the limits, and is reported at few points of many trials."""
    told = tell(ended=False)
    line = search_history(told.front, told.trials)["hypervolume"]
    assert [step["trials"] for step in line] == list(range(1, len(told.trials) + 1))
    assert [step["value"] for step in line] == sorted(step["value"] for step in line)
    all_models = [t.outcome[0] for t in told.trials if isinstance(t.outcome, tuple)]
    meeting = [m for m in all_models if told.front.limits.satisfied_by(m)]
    expected = front_hypervolume(meeting, told.front.baseline.measurement, told.front.target_ms)
    assert line[-1]["value"] == pytest.approx(expected, abs=1e-4)
    assert expected > 0
    monkeypatch.setattr(course_module, "STEPS", 7)
    few = search_history(told.front, told.trials)["hypervolume"]
    assert len(few) <= 9
    assert few[-1] == line[-1]


def test_pauses_of_a_study_do_not_count() -> None:
    """Seconds are those in which some trial ran, trials side by side counted once."""

    def trial(number: int, start: float, end: float) -> Trial:
        return Trial(
            number=number,
            state="complete",
            began=BEGAN + timedelta(seconds=start),
            ended=BEGAN + timedelta(seconds=end),
        )

    busy = Busy([trial(0, 0, 10), trial(1, 5, 15), trial(2, 1000, 1010)])
    assert busy.until(float("inf")) == 25
    assert busy.until((BEGAN + timedelta(seconds=1004)).timestamp()) == 19


def test_where_trials_ended_is_judged_by_the_limits_of_today(tell: Tell) -> None:
    """Counts add up to all trials; failures are reported with their reasons; a stricter target makes some miss it."""
    told = tell(broken="no such operator", ended=False)
    ends = {end["end"]: end for end in search_history(told.front, told.trials)["ends"]}
    assert sum(end["trials"] for end in ends.values()) == len(told.trials)
    assert ends["failed"]["reasons"] == [{"reason": "build: no such operator", "trials": ends["failed"]["trials"]}]
    assert ends["slow"]["trials"] > 0
    strict = replace(told.front, limits=Limits(2.0))
    stricter = {end["end"]: end["trials"] for end in search_history(strict, told.trials)["ends"]}
    assert stricter["missed"] > ends.get("missed", {"trials": 0})["trials"]


def test_the_choice_that_decides_is_the_most_important(tell: Tell) -> None:
    """Of choices by chance, the dearest layer's pruning explains most of the latency; few trials tell nothing."""
    told = tell(300, layers=3)
    found = importances(told.trials)
    dearest = max(told.profile.costs.layer_ms, key=lambda name: told.profile.costs.layer_ms[name])
    first = found["objectives"]["latency"]["choices"][0]
    assert first["choice"].startswith("pruning_ratio:")
    assert dearest in {each["choice"].partition(":")[2] for each in found["objectives"]["latency"]["choices"][:3]}
    assert sum(each["share"] for each in found["objectives"]["size"]["axes"]) == pytest.approx(1, abs=0.01)
    assert importances(told.trials[: LEAST_TRIALS - 1])["objectives"] == {}


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


def test_a_report_during_a_run_leaves_out_what_takes_long(tell: Tell) -> None:
    """A quick report has no importances, and is valid."""
    data = tell(ended=False).data(replace(ABOUT, state="running"), quick=True)
    assert data["importances"]["objectives"] == {}
    assert valid(data)
