"""How long the parts of a study take, from what was timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Measurement, Outcome
from autocompress.search.dispatch import RunContext
from autocompress.search.options import Options
from autocompress.search.time_budget import CAREFUL_PROCESSES, StageTimes, TimeBudget, stage_times
from autocompress.search.workers.inline import InlineWorkers
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

Search = Callable[..., StudyStore]

HOUR_S = 3600.0
COSTS = StageTimes(build_s=2.0, measure_s=5.0, careful_s=8.0, score_s=1.0, epoch_s=10.0)


def trial(problem: AnalyticEvaluator, *, epochs: float, **seconds: float) -> Measurement:
    """Return what a trial measured that took so long."""
    (found,) = problem.evaluate(Request(folder="", candidate=Candidate(), epochs=0))
    latency = replace(found.latency, processes=2)
    return replace(found, latency=latency, epochs=epochs, seconds={k.replace("_", "-"): v for k, v in seconds.items()})


def test_a_trial_that_is_trained_is_built_and_scored_twice() -> None:
    """Without a training it is built and scored; with one again, and the epochs come on top."""
    assert COSTS.trial_s(2.0, trained=False) == 3.0
    assert COSTS.trial_s(2.0, trained=True) == 26.0
    assert COSTS.trial_s(0.0, trained=True) == 3.0


def test_workers_share_the_training_and_not_the_timing() -> None:
    """With two workers what is not timing takes half as long."""
    alone = COSTS.trials_s(10, epochs=1.0, trained=0.5, workers=1)
    assert alone == 10 * (5.0 + 0.5 * 16.0 + 0.5 * 3.0)
    assert COSTS.trials_s(10, epochs=1.0, trained=0.5, workers=2) == 10 * 5.0 + (alone - 10 * 5.0) / 2


def test_the_end_is_trained_longer_scored_once_more_and_timed_with_care() -> None:
    """Each model has all epochs, the test data and a careful timing."""
    assert COSTS.final_evaluation_s(3, epochs=4.0, workers=1) == 3 * (46.0 + 1.0 + 8.0)


def test_costs_come_from_the_trials_that_were_trained(small: AnalyticEvaluator) -> None:
    """Medians, of the timing the lower quartile; trials that were not trained do not count."""
    lone = trial(small, epochs=0.0, build=90.0, latency=90.0)
    assert stage_times([lone]) is None
    trained = [
        trial(small, epochs=2.0, build=2.0, latency=wait, one_shot=1.0, train=22.0)
        for wait in (4.0, 5.0, 6.0, 30.0, 40.0)
    ]
    found = stage_times([lone, *trained])
    assert found == StageTimes(build_s=2.0, measure_s=5.0, careful_s=CAREFUL_PROCESSES * 2.5, score_s=1.0, epoch_s=10.0)


def test_careful_timing_costs_what_one_process_of_a_trial_does(small: AnalyticEvaluator) -> None:
    """Trials timed by one process and trials timed by three tell the same seconds for each process."""
    often = trial(small, epochs=1.0, latency=6.0, train=1.0)
    often = replace(often, latency=replace(often.latency, processes=3))
    once = trial(small, epochs=1.0, latency=2.0, train=1.0)
    once = replace(once, latency=replace(once.latency, processes=1))
    found = stage_times([once, once, often, often, often])
    assert found is not None
    assert found.careful_s == CAREFUL_PROCESSES * 2.0


def test_nothing_is_known_before_the_first_trial() -> None:
    """Of no trials there are no costs."""
    assert stage_times([]) is None


@pytest.mark.parametrize("workers", [0, 1])
def test_this_process_is_a_worker(workers: int) -> None:
    """No worker processes are as many as one."""
    assert COSTS.trials_s(1, epochs=1.0, trained=1.0, workers=workers) == 21.0


class Timed:
    """Says that a trial took so long, of which it trained nearly all."""

    def __init__(self, problem: AnalyticEvaluator, train_s: float) -> None:
        self.problem = problem
        self.train_s = train_s

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate, and add the seconds."""
        outcome = self.problem.evaluate(request)
        seconds = {"build": 1.0, "latency": 1.0, "one-shot": 1.0, "train": self.train_s}
        if isinstance(outcome, Infeasible):
            return outcome
        return tuple(replace(each, epochs=request.epochs, seconds=seconds) for each in outcome)


@pytest.mark.parametrize(("train_s", "reserved"), [(HOUR_S / 100, (0.05, 0.49)), (HOUR_S, (0.5, 0.5))])
def test_a_time_budget_leaves_time_for_the_end(
    search: Search,
    small: AnalyticEvaluator,
    tmp_path: Path,
    train_s: float,
    reserved: tuple[float, float],
) -> None:
    """No trial begins when what is left is needed for the front; that is half of the time at most."""
    store = search(small, evaluator=Timed(small, train_s), trials=20)
    rundir = RunDirectory(tmp_path / "elsewhere", {"study": "run"})
    rundir.close()

    def begins_after(share: float) -> bool:
        context = RunContext(
            options=Options(target_ms=store.limits.target_ms, out=tmp_path / "run", trials=40, time_budget_s=HOUR_S),
            rundir=rundir,
            workers=InlineWorkers(small),
            epochs=1.0,
            final_epochs=2.0,
            started=time.monotonic() - share * HOUR_S,
        )
        return TimeBudget(context, store).in_time()

    least, most = reserved
    assert begins_after(1 - most - 0.01)
    assert not begins_after(1 - least + 0.01)
