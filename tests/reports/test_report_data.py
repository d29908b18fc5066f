"""What a report tells, as plain data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from .conftest import ABOUT, Tell

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


def test_a_report_during_a_run_leaves_out_what_takes_long(tell: Tell) -> None:
    """A quick report has no importances, and is valid."""
    data = tell(ended=False).data(replace(ABOUT, state="running"), quick=True)
    assert data["importances"]["objectives"] == {}
    assert valid(data)
