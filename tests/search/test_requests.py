"""What workers are asked to evaluate, for a trial and for a final training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.ladder.trial_files import ANCESTOR, SHAPES
from autocompress.evaluators.measurement import Infeasible, Measurement
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import BASELINE, STUDENT, Model
from autocompress.search.dispatch import RunContext
from autocompress.search.options import Options
from autocompress.search.requests import FINAL, TRIAL, final_request, repeated_request, seed_of, trial_request
from autocompress.search.workers.inline import InlineWorkers
from autocompress.spaces.candidate import Candidate, Value
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import PendingTrial, StudyStore

Open = Callable[..., StudyStore]
PRUNED = Candidate({"pruning_ratio": {"layer0": 0.5}})


@pytest.fixture
def context(tmp_path: Path, small: AnalyticEvaluator) -> Iterator[RunContext]:
    """Return a run of 2 passes in a trial, and 10 in a final training."""
    rundir = RunDirectory(tmp_path / "requests", {"study": "run"})
    options = Options(target_ms=3.0, out=tmp_path / "requests", seed=7, max_size_bytes=4e6, trial_timeout_s=60.0)
    yield RunContext(options=options, rundir=rundir, workers=InlineWorkers(small), epochs=2.0, final_epochs=10.0)
    rundir.close()


@pytest.fixture
def measured(small: AnalyticEvaluator) -> Measurement:
    """Return what a trained candidate costs."""
    (found,) = small.evaluate(Request(folder="", candidate=Candidate(), epochs=0))
    return replace(found, epochs=2.0)


def test_a_candidate_has_the_limits_of_the_study(context: RunContext, opened: Open, small: AnalyticEvaluator) -> None:
    """It stops at each of them, has a seed of its own, and is trained for a trial's passes."""
    store = opened(small, limits=Limits(3.0, max_size_bytes=4e6))
    request = trial_request(context, store, PendingTrial(12, PRUNED, "", 1))
    assert (request.folder, request.candidate, request.attempt) == ("trials/00012", PRUNED, 1)
    assert (request.target_ms, request.max_size_bytes) == (3.0, 4e6)
    assert (request.epochs, request.timeout_s) == (2.0, 60.0)
    assert request.seed == seed_of(7, "00012", TRIAL)
    assert not request.unchanged
    assert not request.test


def test_a_trial_with_a_role_has_no_limits(context: RunContext, opened: Open, small: AnalyticEvaluator) -> None:
    """Baselines are measured in any case, and never from inherited weights; the unchanged network is not trained."""
    store = opened(small, limits=Limits(3.0, max_size_bytes=4e6))
    baseline = trial_request(context, store, PendingTrial(0, Candidate(), BASELINE, 0))
    uniform = trial_request(context, store, PendingTrial(1, PRUNED, "uniform int8", 0))
    for request in (baseline, uniform):
        assert (request.target_ms, request.max_size_bytes, request.promotion, request.ancestor) == (
            None,
            None,
            None,
            "",
        )
    assert (baseline.unchanged, baseline.epochs) == (True, 0.0)
    assert (uniform.unchanged, uniform.epochs) == (False, 2.0)


@pytest.mark.parametrize(("role", "student", "epochs"), [(STUDENT, True, 2.0), (BASELINE, True, 0.0), ("", False, 0.0)])
def test_who_is_trained_though_nothing_compresses_it(
    role: str, student: bool, epochs: float, context: RunContext, opened: Open, small: AnalyticEvaluator
) -> None:
    """Only a student is; a candidate with nothing but settings changes nothing either."""
    settings = Candidate({} if role else {"distillation": {"loss": 1.0}})
    request = trial_request(replace(context, student=student), opened(small), PendingTrial(3, settings, role, 0))
    assert request.epochs == epochs


def test_a_candidate_inherits_from_a_model_with_files(
    context: RunContext, opened: Open, small: AnalyticEvaluator, measured: Measurement
) -> None:
    """It names the weights of the wider neighbour, unless inheriting is switched off."""
    wider = Candidate({"pruning_ratio": {"layer0": 0.375}})
    model = Model(id="00004", candidate=wider, measurements=(measured,), path="trials/00004")
    store, trial = opened(small), PendingTrial(12, PRUNED, "", 0)
    assert trial_request(context, store, trial, [model]).ancestor.startswith("trials/00004/")
    assert trial_request(context, store, trial).ancestor == ""
    alone = replace(context, options=replace(context.options, inherit=False))
    assert trial_request(alone, store, trial, [model]).ancestor == ""


def test_a_final_training_is_longer_and_scored_on_the_test_data(context: RunContext, measured: Measurement) -> None:
    """It has the final passes, a seed of its own and more time; a model whose training failed is only scored."""
    model = Model(id="00004", candidate=PRUNED, measurements=(measured,), path="models/00004")
    request = final_request(context, model)
    assert (request.folder, request.candidate, request.test) == ("models/00004", PRUNED, True)
    assert (request.epochs, request.timeout_s) == (10.0, 600.0)
    assert request.seed == seed_of(7, "00004", FINAL)
    failed = replace(measured, failure=Infeasible(reason="the loss became nan", rung="train"))
    assert final_request(context, replace(model, measurements=(failed,))).epochs == 0.0


@pytest.mark.parametrize(
    ("axes", "epochs", "file"),
    [
        ({"pruning_ratio": {"layer0": 0.5}, "bits": {"layer0": 8}}, 2.0, SHAPES),
        ({"depth": {"block1": 1}}, 2.0, SHAPES),
        ({"activation": {"block1": "relu"}}, 2.0, SHAPES),
        ({"pruning_ratio": {"layer0": 0.5}}, 0.0, ANCESTOR),
        ({"pruning_ratio": {"layer0": 0.5}, "rank": {"layer0": 0.5}}, 2.0, ANCESTOR),
        ({"bits": {"layer0": 8}}, 2.0, ANCESTOR),
    ],
)
def test_a_final_training_goes_on_from_the_trials_own_weights(
    axes: dict[str, dict[str, Value]], epochs: float, file: str, context: RunContext, measured: Measurement
) -> None:
    """Where the trial kept none that others may start from, it starts as the trial did; a repetition always does."""
    trained = replace(measured, epochs=epochs)
    model = Model(id="00004", candidate=Candidate(axes), measurements=(trained,), path="models/00004")
    request = final_request(context, model)
    assert request.ancestor == f"trials/00004/{file}"
    again = repeated_request(context, model, request)
    assert (again.ancestor, again.epochs) == (f"trials/00004/{ANCESTOR}", epochs)
    assert (again.seed, again.test) == (seed_of(7, "00004", TRIAL), True)
