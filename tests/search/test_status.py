"""How far a search is, read from its study."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.ladder.trial_files import RUNG
from autocompress.evaluators.measurement import Measurement, Outcome
from autocompress.pareto.objectives import front_hypervolume
from autocompress.search.options import Options
from autocompress.search.status import SearchStatus
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

Search = Callable[..., StudyStore]

HOUR_S = 3600.0


class Timed:
    """Says that a trial took so long, of which it trained nearly all."""

    def __init__(self, problem: AnalyticEvaluator, train_s: float) -> None:
        self.problem = problem
        self.train_s = train_s

    def evaluate(self, request: Request) -> Outcome:
        """Evaluate, and add the seconds."""
        outcome = self.problem.evaluate(request)
        seconds = {"build": 1.0, "latency": 1.0, "one-shot": 1.0, "train": self.train_s}
        return replace(outcome, epochs=request.epochs, seconds=seconds) if isinstance(outcome, Measurement) else outcome


@pytest.fixture
def outlook(tmp_path: Path) -> Callable[..., SearchStatus]:
    """Return a function that looks at a study of 40 trials."""

    def look(store: StudyStore, *, spent_s: float = 0.0, **given: float) -> SearchStatus:
        options = Options(target_ms=store.limits.target_ms, out=tmp_path / "run", trials=40, **given)  # type: ignore[arg-type]
        rundir = RunDirectory(tmp_path / "elsewhere", {"study": "run"})
        rundir.close()
        return SearchStatus(store, options, rundir, started=time.monotonic() - spent_s, final_epochs=2.0)

    return look


def test_a_study_that_goes_on(search: Search, small: AnalyticEvaluator, outlook: Callable[..., SearchStatus]) -> None:
    """Its best model, its front and the trials since that got better are known at once, not the time that is left."""
    store = search(small, trials=30)
    state = outlook(store).state({}, "")
    meeting = [m for m in store.found.front() if store.limits.satisfied_by(m.measurement)]
    best = max(m.measurement.accuracy for m in meeting)
    newest = max(int(m.id) for m in meeting if m.id != "baseline")
    baseline = next(m.measurement for m in store.models() if m.role == "baseline")
    assert (state.finished, state.total, state.running) == (30, 40, ())
    assert state.best.startswith(f"best {best:.2%} at ")
    assert state.front == len(meeting)
    assert state.hypervolume == front_hypervolume([m.measurement for m in meeting], baseline, store.limits.target_ms)
    assert state.unchanged == sum(trial.number > newest for trial in store.finished())
    assert state.left_s is None


def test_the_nearest_is_told_where_nothing_meets_the_target(
    search: Search, small: AnalyticEvaluator, outlook: Callable[..., SearchStatus]
) -> None:
    """There is no front yet, and the model that comes closest is named."""
    state = outlook(search(small, trials=5, target_ms=0.01)).state({}, "")
    assert state.best.startswith("none meets the target yet, nearest ")
    assert (state.front, state.hypervolume, state.unchanged) == (0, 0.0, 0)


def test_what_workers_are_at(
    search: Search, small: AnalyticEvaluator, outlook: Callable[..., SearchStatus], tmp_path: Path
) -> None:
    """A trial has the rung that its folder names and the seconds since it was begun; without a folder it starts."""
    looking = outlook(search(small, trials=5))
    folder = tmp_path / "elsewhere" / "trials" / "00007"
    folder.mkdir(parents=True)
    (folder / RUNG).write_text("train")
    now = time.monotonic()
    state = looking.state({"trials/00007": (7, now - 60.0), "trials/00008": (8, now)}, "no device")
    assert [(each.name, each.rung) for each in state.running] == [("00007", "train"), ("00008", "start")]
    assert 60.0 <= state.running[0].seconds < 90.0
    assert state.held_up == "no device"


def test_time_that_is_left(search: Search, small: AnalyticEvaluator, outlook: Callable[..., SearchStatus]) -> None:
    """It is what the trials of this run took on average, for those that are left; a time budget ends it sooner."""
    store = search(small, trials=5)
    looking, hasty = outlook(store), outlook(store, time_budget_s=1e-3)
    began = time.monotonic()
    search(small, trials=15)
    store.found.front()
    left_s = looking.state({}, "").left_s
    elapsed = time.monotonic() - began
    assert left_s is not None
    assert 0 < left_s <= 2.5 * elapsed * 1.5 + 1.0
    assert hasty.state({}, "").left_s == 0.0


@pytest.mark.parametrize(("train_s", "reserved"), [(HOUR_S / 100, (0.05, 0.49)), (HOUR_S, (0.5, 0.5))])
def test_a_time_budget_leaves_time_for_the_end(
    search: Search,
    small: AnalyticEvaluator,
    outlook: Callable[..., SearchStatus],
    train_s: float,
    reserved: tuple[float, float],
) -> None:
    """No trial begins when what is left is needed for the front; that is half of the time at most."""
    store = search(small, evaluator=Timed(small, train_s), trials=20)

    def begins_after(share: float) -> bool:
        looking = outlook(store, time_budget_s=HOUR_S, spent_s=share * HOUR_S)
        looking.state({}, "")
        return looking.in_time()

    least, most = reserved
    assert begins_after(1 - most - 0.01)
    assert not begins_after(1 - least + 0.01)
