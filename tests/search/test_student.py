"""Searches in which a student is compressed in the model's stead: the unchanged candidate is two networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Outcome
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import BASELINE, STUDENT
from autocompress.profiles.profile import Profile
from autocompress.search.dispatch import RunContext
from autocompress.search.driver import Driver
from autocompress.search.options import Options
from autocompress.search.samplers.initial_design import warm_start
from autocompress.search.workers.inline import InlineWorkers
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

PROBLEM = AnalyticEvaluator(3)
PROFILE = Profile.from_dict(PROBLEM.profile())
TARGET_MS = 4.0


class Asked:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate as the analytic problem does."""
        self.requests.append(request)
        return PROBLEM.evaluate(request)


@pytest.fixture
def store(tmp_path: Path) -> StudyStore:
    """Return a store whose warm start has a student."""
    store = StudyStore(tmp_path, None, "run", PROBLEM.space, Limits(TARGET_MS))
    store.begin(warm_start(PROBLEM.space, PROFILE, TARGET_MS, student=True))
    return store


def test_the_student_comes_after_the_baseline() -> None:
    """Both are the unchanged candidate; without a student it comes once."""
    with_it = warm_start(PROBLEM.space, PROFILE, TARGET_MS, student=True)
    without = warm_start(PROBLEM.space, PROFILE, TARGET_MS)
    assert [start.role for start in with_it[:2]] == [BASELINE, STUDENT]
    assert with_it[0].candidate == with_it[1].candidate == Candidate()
    assert [start for start in with_it if start.role != STUDENT] == without


def test_the_student_is_trained_and_the_model_is_not(store: StudyStore, tmp_path: Path) -> None:
    """The model's trial says that it is unchanged, and only it; neither answers for the other."""
    evaluator = Asked()
    rundir = RunDirectory(tmp_path / "run", {"study": "run"})
    context = RunContext(
        options=Options(target_ms=TARGET_MS, out=tmp_path / "run", trials=4),
        rundir=rundir,
        workers=InlineWorkers(evaluator),
        epochs=1.0,
        student=True,
    )
    Driver(context, store).run()
    model, student, *others = evaluator.requests
    assert (model.unchanged, model.epochs) == (True, 0.0)
    assert (student.unchanged, student.epochs) == (False, 1.0)
    assert model.candidate == student.candidate == Candidate()
    assert all(not request.unchanged and request.epochs for request in others)
    assert [found.role for found in store.models()[:2]] == [BASELINE, STUDENT]
    rundir.close()
    store.close()
