"""What TensorBoard shows of a study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.pareto.objectives import front_hypervolume, objectives
from autocompress.search.tensorboard import TensorBoardWriter
from autocompress.storage.backends import METRICS
from autocompress.storage.study_store import StudyStore

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

Search = Callable[..., StudyStore]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Return what TensorBoard reads: by name and step."""
    read = accumulator.EventAccumulator(str(folder))
    read.Reload()
    return {tag: {event.step: event.value for event in read.Scalars(tag)} for tag in read.Tags()["scalars"]}


def test_each_trial_has_its_numbers(search: Search, small: AnalyticEvaluator, tmp_path: Path) -> None:
    """A trial's objectives are at its number, and the last hypervolume is that of the front."""
    store = search(small, trials=30, target_ms=3.0)
    with TensorBoardWriter(str(tmp_path / "board"), store):
        pass
    found, outcomes = scalars(tmp_path / "board"), {t.number: t.outcome for t in store.finished()}
    measured = {number: it[0] for number, it in outcomes.items() if isinstance(it, tuple)}
    assert 0 < len(measured) < len(outcomes)
    for position, name in enumerate(METRICS):
        expected = {number: objectives(it)[position] for number, it in measured.items()}
        assert found[f"trial/{name}"] == pytest.approx(expected)
    assert found["trial/measured"] == {number: float(number in measured) for number in outcomes}
    meeting = [m.measurement for m in store.found.front() if store.limits.satisfied_by(m.measurement)]
    baseline = next(m.measurement for m in store.models() if m.role == "baseline")
    volume = found["front/hypervolume"]
    assert volume[max(volume)] == pytest.approx(front_hypervolume(meeting, baseline, 3.0), rel=1e-5)
    assert sorted(volume.values()) == list(volume.values())


def test_a_run_that_goes_on_is_shown_once(search: Search, small: AnalyticEvaluator, tmp_path: Path) -> None:
    """Trials of the first run are there when the second one ends, and none is shown twice."""
    folder = str(tmp_path / "board")
    with TensorBoardWriter(folder, search(small, trials=10)) as board:
        board()
    store = search(small, trials=20)
    with TensorBoardWriter(folder, store):
        pass
    assert list(scalars(Path(folder))["trial/measured"]) == [t.number for t in store.finished()]
