"""Stored trials are read alike by the driver and by `open_run`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import BASELINE, STUDENT
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run import open_run
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import Start, StudyStore
from autocompress.storage.trials import started_trials

Open = Callable[..., StudyStore]


def run_all(store: StudyStore, problem: AnalyticEvaluator, trials: int) -> None:
    """Evaluate so many trials."""
    for _ in range(trials):
        asked = store.ask()
        store.tell(asked.number, problem.evaluate(Request(folder="", candidate=asked.candidate, epochs=0)))


def test_the_driver_and_the_reader_see_the_same_trials(opened: Open, small: AnalyticEvaluator, tmp_path: Path) -> None:
    """Trials and models are equal, and the baseline's candidate in a second trial is no second model."""
    RunDirectory(tmp_path / "run", {"study": "run"}).close()
    store = opened(small)
    run_all(store, small, 5)
    store.study.enqueue_trial(small.space.levels(Candidate()))
    run_all(store, small, 6)
    run = open_run(tmp_path / "run")
    assert run.trials == started_trials(store.study)
    assert [t for t in run.trials if t.outcome is not None] == store.finished()
    assert [(m.id, m.candidate) for m in run.measured] == [(m.id, m.candidate) for m in store.models()]
    assert len({m.candidate for m in run.measured}) == len(run.measured)


def test_an_unchanged_student_is_not_the_baseline(small: AnalyticEvaluator, tmp_path: Path) -> None:
    """A student's study has two models with the unchanged candidate: the original network and the student."""
    RunDirectory(tmp_path / "run", {"study": "run"}).close()
    store = StudyStore(tmp_path / "run", None, "run", small.space, Limits(4.0))
    store.begin([Start(Candidate(), BASELINE), Start(Candidate(), STUDENT)])
    run_all(store, small, 2)
    assert [m.role for m in store.models()] == [BASELINE, STUDENT]
    assert [m.role for m in open_run(tmp_path / "run").measured] == [BASELINE, STUDENT]
