"""Two runs are compared on one scale, and what is not the same in them is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.errors import RunDirectoryError
from autocompress.pareto.objectives import front_hypervolume
from autocompress.reports.comparison import MILLISECONDS, RATIOS, compare
from autocompress.storage.run import Run, open_run

MadeRun = Callable[..., Path]


def changed(run: Path, *, baseline_ms: float = 1.0, params: int | None = None) -> Run:
    """Return a run whose unchanged network takes so many times as long, or has other parameters."""
    for file in (run / "baseline" / "measurement.json", *run.glob("models/*/measurement.json")):
        measured = json.loads(file.read_text())
        measured["latency"]["baseline_ms"] *= baseline_ms
        if params is not None and file.parent.name == "baseline":
            measured["params"] = params
        file.write_text(json.dumps(measured))
    return open_run(run)


@pytest.fixture
def one(made_run: MadeRun, tmp_path: Path) -> Run:
    """Return a run."""
    return open_run(made_run(tmp_path / "one"))


def test_a_run_beside_itself(one: Run) -> None:
    """The hypervolumes are equal, and those of the front; nothing dominates and nothing differs."""
    found = compare(one, one)
    front = one.front()
    assert (found.by, found.ratio, found.warnings) == (MILLISECONDS, 1.0, ())
    assert found.a.dominated == found.b.dominated == {}
    measured = [m.measurement for m in front.models]
    expected = front_hypervolume(measured, front.baseline.measurement, front.target_ms)
    assert found.a.hypervolume == pytest.approx(expected)


def test_a_faster_run_dominates(one: Run, made_run: MadeRun, tmp_path: Path) -> None:
    """What both have tried is dominated by the faster one's front, and its hypervolume is larger."""
    other = open_run(made_run(tmp_path / "two", faster=1.5))
    found = compare(one, other)
    assert found.by == MILLISECONDS
    assert {*found.a.dominated.values()} <= {m.id for m in found.b.front.models}
    both = {m.candidate for m in other.models} & {m.candidate for m in found.a.front.models}
    assert len(both) > 1
    assert all(found.a.by(model) for model in found.a.front.models if model.candidate in both)
    assert found.ratio is not None
    assert found.ratio > 1


def test_two_targets_have_one_reference(one: Run, made_run: MadeRun, tmp_path: Path) -> None:
    """The longer target is the reference of both; more models can only add to the hypervolume."""
    found = compare(one, open_run(made_run(tmp_path / "two", target_ms=3.0)))
    assert found.by == MILLISECONDS
    assert "4 ms" in found.scale
    back = compare(found.b.run, found.a.run)
    assert (back.a.hypervolume, back.b.hypervolume) == (found.b.hypervolume, found.a.hypervolume)


def test_a_slower_machine_does_not_matter(one: Run, made_run: MadeRun, tmp_path: Path) -> None:
    """Where the unchanged network took twice as long, models count relative to it, and both runs are as good."""
    slower = changed(made_run(tmp_path / "two", target_ms=8.0), baseline_ms=2.0)
    found = compare(one, slower)
    assert found.by == RATIOS
    assert any("took a different time: 10 ms in A, 20 ms in B" in warning for warning in found.warnings)


def test_the_same_search_on_a_slower_machine_is_as_good(made_run: MadeRun, tmp_path: Path) -> None:
    """All that differs is how fast the machine was, so nothing dominates and the ratio is one."""
    one = changed(made_run(tmp_path / "one"), baseline_ms=0.2)
    other = changed(made_run(tmp_path / "two"), baseline_ms=0.3)
    found = compare(one, other)
    assert found.by == RATIOS
    assert found.ratio == pytest.approx(1.0)
    assert found.a.dominated == found.b.dominated == {}


def test_another_runtime_is_told(one: Run, made_run: MadeRun, tmp_path: Path) -> None:
    """Milliseconds on two runtimes are not compared."""
    found = compare(one, open_run(made_run(tmp_path / "two", runtime="openvino")))
    assert found.by == RATIOS
    assert "The runtime differs: onnxruntime in A, openvino in B." in found.warnings


def test_another_network_is_told(one: Run, made_run: MadeRun, tmp_path: Path) -> None:
    """On one machine its milliseconds count all the same."""
    found = compare(one, changed(made_run(tmp_path / "two"), params=1))
    assert found.by == MILLISECONDS
    assert any(warning.startswith("The unchanged networks differ") for warning in found.warnings)


def test_a_run_without_a_baseline_cannot_be_compared(one: Run, made_run: MadeRun, tmp_path: Path) -> None:
    """The message says which one has none."""
    with pytest.raises(RunDirectoryError, match=r"two.*no baseline yet"):
        compare(one, open_run(made_run(tmp_path / "two", trials=0)))
