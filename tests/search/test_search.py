"""Whole searches of problems whose true front is known."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable

import pytest

from autocompress.errors import AutocompressError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Measurement, Outcome
from autocompress.pareto.front import select
from autocompress.pareto.limits import Limits
from autocompress.pareto.objectives import front_hypervolume
from autocompress.search.options import SAMPLERS
from autocompress.spaces.candidate import Candidate
from autocompress.storage.study_store import StudyStore

Search = Callable[..., StudyStore]

TARGET_MS = 4.0


class Counting:
    """Counts how often each candidate is evaluated."""

    def __init__(self, evaluator: AnalyticEvaluator) -> None:
        self.evaluator = evaluator
        self.seen: Counter[Candidate] = Counter()

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate a request."""
        self.seen[request.candidate] += 1
        return self.evaluator.evaluate(request)


class Slow(Counting):
    """Takes a moment for every candidate."""

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate a request after a pause."""
        time.sleep(0.02)
        return super().evaluate(request)


class Unbuildable(Counting):
    """Can build nothing."""

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Return a reason."""
        return Infeasible(reason="it cannot be built", rung="build")


def candidates(store: StudyStore) -> list[str]:
    """Return the candidates of finished trials, in order."""
    return [t.candidate.to_json() for t in store.finished() if t.candidate]


def volume(store: StudyStore, problem: AnalyticEvaluator) -> float:
    """Return the hypervolume of what meets the target."""
    return hypervolume_of([m.measurement for m in store.models()], problem)


def hypervolume_of(measurements: list[Measurement], problem: AnalyticEvaluator) -> float:
    """Return the hypervolume of those measurements that meet the target."""
    (baseline,) = problem.evaluate(Request(folder="", candidate=Candidate(), epochs=0))
    return front_hypervolume([m for m in measurements if m.latency.meets(TARGET_MS)], baseline, TARGET_MS)


def test_search_finds_the_true_front(search: Search, small: AnalyticEvaluator) -> None:
    """A quarter of all candidates suffices for nearly the hypervolume of all, and what is reported is on the front."""
    store = search(small, trials=128)
    everything = [measurement for _, measurement in small.everything()]
    assert volume(store, small) >= 0.95 * hypervolume_of(everything, small)
    true = {everything[i].accuracy for i in select(everything, Limits(TARGET_MS))}
    models = [m.measurement for m in store.models()]
    found = [models[i] for i in select(models, Limits(TARGET_MS))]
    assert sum(m.accuracy in true for m in found) >= 0.8 * len(found)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_seed_same_search(sampler: str, search: Search, small: AnalyticEvaluator) -> None:
    """Two runs with one seed try the same candidates in the same order; another seed tries others."""
    first, second, other = (
        candidates(search(small, trials=40, sampler=sampler, seed=seed, name=name))
        for seed, name in ((3, "first"), (3, "second"), (4, "other"))
    )
    assert len(first) == 40
    assert first == second
    assert first != other


class Seeds(Counting):
    """Remembers the seed of each request."""

    def __init__(self, evaluator: AnalyticEvaluator) -> None:
        super().__init__(evaluator)
        self.seeds: dict[str, int] = {}

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate a request."""
        self.seeds[request.folder] = request.seed
        return super().evaluate(request)


def test_each_trial_draws_numbers_of_its_own(search: Search, small: AnalyticEvaluator) -> None:
    """No two trials train with one seed, and a study repeats those of all its trials."""
    first, again = Seeds(small), Seeds(small)
    for evaluator, name in ((first, "first"), (again, "again")):
        search(small, evaluator=evaluator, trials=12, name=name)
    assert len(set(first.seeds.values())) == len(first.seeds) > 5
    assert first.seeds == again.seeds


def test_mutation_beats_chance(search: Search) -> None:
    """On a problem of 24 choices, mutation of the front gains more over the warm start than random candidates do."""
    problem = AnalyticEvaluator(12)
    medians = {
        sampler: statistics.median(
            volume(search(problem, trials=60, sampler=sampler, seed=seed, name=f"{sampler}{seed}"), problem)
            for seed in range(3)
        )
        for sampler in ("mutation", "random")
    }
    assert medians["mutation"] > 1.05 * medians["random"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_duplicates_cost_nothing(sampler: str, search: Search) -> None:
    """A candidate that was evaluated before gets its outcome at once; it counts as a trial."""
    evaluator = Counting(AnalyticEvaluator(1))
    store = search(evaluator.evaluator, evaluator=evaluator, trials=30, sampler=sampler)
    assert len(store.finished()) == 30
    assert set(evaluator.seen.values()) == {1}


def test_finished_trials_are_kept(search: Search, small: AnalyticEvaluator) -> None:
    """Asking for more trials evaluates only those that are missing; asking for no more evaluates none."""
    first = candidates(search(small, trials=20))
    evaluator = Counting(small)
    both = candidates(search(small, evaluator=evaluator, trials=40))
    assert both[:20] == first
    assert len(both) == 40
    assert 0 < evaluator.seen.total() <= 20
    idle = Counting(small)
    assert candidates(search(small, evaluator=idle, trials=30)) == both
    assert idle.seen.total() == 0


def test_an_interrupted_search_goes_on_the_same(search: Search, small: AnalyticEvaluator) -> None:
    """With mutation, a run in two parts tries what a run in one part tries."""
    whole = candidates(search(small, trials=40, name="whole"))
    search(small, trials=27, name="parts")
    assert candidates(search(small, trials=40, name="parts")) == whole


def test_time_budget_ends_a_search(search: Search, small: AnalyticEvaluator) -> None:
    """When the time is over no trial is begun, however many were asked for; what was found is kept."""
    store = search(small, evaluator=Slow(small), trials=100_000, time_budget_s=0.5)
    assert 0 < len(store.finished()) < 100_000
    assert len(search(small, trials=100_000, time_budget_s=0.0).finished()) == len(store.finished())


def test_the_baseline_is_measured_whatever_the_time(search: Search, small: AnalyticEvaluator) -> None:
    """A search whose time was over before it began has the baseline, and no candidate; with more time it continues."""
    store = search(small, trials=10, time_budget_s=1e-9)
    assert [m.role for m in store.models()] == ["baseline"]
    assert len(store.finished()) == 1
    assert len(search(small, trials=10, time_budget_s=1e-9).finished()) == 1
    assert len(search(small, trials=10).finished()) == 10


def test_what_is_too_slow_has_its_reason(search: Search, small: AnalyticEvaluator) -> None:
    """Cut trials say that they miss the target; the reference baselines are measured completely all the same."""
    store = search(small, trials=30, target_ms=3.0)
    cut = [t.outcome.reason for t in store.finished() if isinstance(t.outcome, Infeasible)]
    assert cut
    assert all("is over the target of 3 ms" in reason for reason in cut)
    references = [m.role for m in store.models() if m.role != "front"]
    assert {"baseline", "uniform int8"} < set(references)


def test_a_baseline_that_fails_ends_the_run(search: Search, small: AnalyticEvaluator) -> None:
    """Where the unchanged network cannot be evaluated there is nothing to search for."""
    with pytest.raises(AutocompressError, match="the unchanged network cannot be evaluated: it cannot be built"):
        search(small, evaluator=Unbuildable(small), trials=5)


def test_a_milder_target_begins_again_what_was_cut(search: Search, small: AnalyticEvaluator) -> None:
    """Candidates that ended for a stricter target, and meet today's, are evaluated first, once; others stay cut."""
    store = search(small, trials=40, target_ms=3.0)
    cut = {t.candidate: t.outcome.latency for t in store.finished() if isinstance(t.outcome, Infeasible)}
    within = {candidate for candidate, latency in cut.items() if latency is not None and latency.low_ms <= 5.0}
    assert within
    evaluator = Counting(small)
    search(small, evaluator=evaluator, trials=40 + len(within), target_ms=5.0)
    assert set(evaluator.seen) == within
    assert within <= {m.candidate for m in search(small, trials=40, target_ms=5.0).models()}
    once = Counting(small)
    search(small, evaluator=once, trials=60 + len(within), target_ms=5.0)
    assert not {candidate.to_json() for candidate in once.seen} & cut.keys()


def test_a_baseline_that_failed_is_tried_anew(search: Search, small: AnalyticEvaluator) -> None:
    """A run that ended because its baseline could not be evaluated is resumed when that is fixed."""
    with pytest.raises(AutocompressError, match="it cannot be built"):
        search(small, trials=10, evaluator=Unbuildable(small))
    store = search(small, trials=10)
    assert [model.id for model in store.models()].count("baseline") == 1
    assert len(store.finished()) == 10
