"""How far a search is, read from its study."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.ladder.trial_files import RUNG
from autocompress.pareto.objectives import front_hypervolume
from autocompress.search.dispatch import RunContext
from autocompress.search.options import Options
from autocompress.search.status import SearchStatus
from autocompress.search.time_budget import TimeBudget
from autocompress.search.workers.inline import InlineWorkers
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

Search = Callable[..., StudyStore]


@pytest.fixture
def outlook(tmp_path: Path) -> Callable[..., SearchStatus]:
    """Return a function that looks at a study of 40 trials."""

    def look(store: StudyStore, *, spent_s: float = 0.0, **given: float) -> SearchStatus:
        options = Options(target_ms=store.limits.target_ms, out=tmp_path / "run", trials=40, **given)  # type: ignore[arg-type]
        rundir = RunDirectory(tmp_path / "elsewhere", {"study": "run"})
        rundir.close()
        context = RunContext(
            options=options,
            rundir=rundir,
            workers=InlineWorkers(AnalyticEvaluator(1)),
            epochs=1.0,
            final_epochs=2.0,
            started=time.monotonic() - spent_s,
        )
        return SearchStatus(context, store, TimeBudget(context, store))

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
    state = looking.state({"trials/00007": now - 60.0, "trials/00008": now}, "no device")
    assert [(each.name, each.rung) for each in state.running] == [("00007", "train"), ("00008", "start")]
    assert 60.0 <= state.running[0].seconds < 90.0
    assert state.blocked_reason == "no device"


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
