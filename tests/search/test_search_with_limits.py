"""Searches under more limits than a latency: their front is known, and they are resumed under other limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from autocompress.evaluators.analytic import ACCURACY, AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Measurement, Outcome
from autocompress.pareto.front import select
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import BASELINE
from autocompress.search.finalists import finalists
from autocompress.spaces.candidate import Candidate
from autocompress.storage.study_store import StudyStore

Search = Callable[..., StudyStore]

PROBLEM = AnalyticEvaluator(2)
ALSO = ("memory", "energy")
EVERYTHING = dict(PROBLEM.everything(ALSO))
TARGET_MS = 6.0
ALONE = Limits(TARGET_MS)


def at(share: float, of: Callable[[Measurement], float]) -> float:
    """Return what a share of those candidates is under that meet the target."""
    values = sorted(of(m) for m in EVERYTHING.values() if ALONE.satisfied_by(m))
    return values[int(share * len(values))]


SIZE = at(0.4, lambda m: m.size_bytes)
MEMORY = at(0.5, lambda m: m.memory_bytes or 0)
ENERGY = at(0.5, lambda m: m.energy_mj or 0.0)
FLOOR = at(0.5, lambda m: m.accuracy)

CASES = {
    "target": ALONE,
    "accuracy": replace(ALONE, min_accuracy=FLOOR),
    "change": replace(ALONE, min_change=FLOOR - ACCURACY),
    "size": replace(ALONE, max_size_bytes=SIZE),
    "memory": replace(ALONE, max_memory_bytes=MEMORY),
    "energy": replace(ALONE, max_energy_mj=ENERGY),
    "two": replace(ALONE, max_size_bytes=SIZE, min_accuracy=FLOOR),
}


class Counting:
    """Counts how often each candidate is evaluated, and from what is known."""

    def __init__(self) -> None:
        self.seen: Counter[Candidate] = Counter()
        self.requests: list[Request] = []

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate a request."""
        self.seen[request.candidate] += 1
        self.requests.append(request)
        return PROBLEM.evaluate(request)


@pytest.fixture
def whole(search: Search) -> Search:
    """Try every candidate of the problem, or resume it under other limits."""

    def run(limits: Limits, *, more: int = 0, evaluator: Counting | None = None) -> StudyStore:
        store = search(PROBLEM, trials=1, time_budget_s=0.0, limits=limits, warm=False)
        if not store.finished():
            for candidate in EVERYTHING:
                role = {} if candidate != Candidate() else {"role": BASELINE}
                store.study.enqueue_trial(PROBLEM.space.levels(candidate), user_attrs=role)
        return search(PROBLEM, trials=len(EVERYTHING) + more, limits=limits, warm=False, evaluator=evaluator)

    return run


def front(store: StudyStore) -> dict[Candidate, Measurement]:
    """Return the front of a store by its own limits."""
    models = store.models()
    return {models[i].candidate: models[i].measurement for i in select([m.measurement for m in models], store.limits)}


def true_front(limits: Limits) -> set[Candidate]:
    """Return the candidates of which no other that meets the limits is better, by enumeration."""
    known = limits.against(EVERYTHING[Candidate()])
    feasible = {c: m for c, m in EVERYTHING.items() if known.satisfied_by(m)}
    assert feasible
    return {list(feasible)[i] for i in select(list(feasible.values()), known)}


def cut(store: StudyStore) -> dict[str, list[Candidate]]:
    """Return the candidates that were cut, by the rung on which they ended."""
    found: dict[str, list[Candidate]] = {}
    for trial in store.finished():
        result = trial.outcome
        if isinstance(result, Infeasible):
            found.setdefault(result.rung, []).append(trial.candidate)
    return found


@pytest.mark.parametrize("case", CASES)
def test_the_front_is_that_of_what_meets_all_limits(case: str, whole: Search) -> None:
    """Where every candidate is tried the front is the enumerated one; what costs too much is cut, and nothing else."""
    limits = CASES[case]
    store = whole(limits)
    assert set(front(store)) == true_front(limits)
    rungs = {"latency"} | {name for name in ("size", "memory", "energy") if name == case or case == "two"}
    assert set(cut(store)) <= rungs
    for rung, candidates in cut(store).items():
        assert all(limits.violations(EVERYTHING[candidate])[rung] > 0 for candidate in candidates)
    assert true_front(limits) != true_front(ALONE) or limits is ALONE


@pytest.mark.parametrize("case", CASES)
def test_feasible_trials_are_those_that_meet_all_limits(case: str, whole: Search) -> None:
    """What a store calls feasible is so by enumeration, and so say the constraints of trials of the same limits."""
    store = whole(CASES[case])
    constraints = {trial.number: trial.constraints.values() for trial in store.study.trials}
    for trial in store.finished():
        truth = store.limits.satisfied_by(EVERYTHING[trial.candidate])
        assert store.feasible(trial.outcome) == truth
        assert all(value <= 0 for value in constraints[trial.number]) == truth
    assert store.limits == CASES[case].against(EVERYTHING[Candidate()])


def test_a_candidate_under_the_floor_is_complete(whole: Search) -> None:
    """A floor cuts nothing: what is under it keeps its values, which teach the sampler, and is not on the front."""
    store = whole(CASES["accuracy"])
    under = [t for t in store.study.trials if t.values is not None and t.values[0] < FLOOR]
    assert under
    assert all(t.constraints["accuracy"] > 0 for t in under)
    assert all(m.accuracy >= FLOOR for m in front(store).values())


@pytest.mark.parametrize("case", ["size", "memory", "energy"])
def test_a_looser_limit_puts_back_what_was_cut(case: str, whole: Search) -> None:
    """Without a limit, exactly what was cut for it is evaluated again, and the front is the looser one's."""
    first = whole(CASES[case])
    put_back = [c for c in cut(first)[case] if not ALONE.surely_violated_by(EVERYTHING[c])]
    assert put_back
    evaluator = Counting()
    again = whole(ALONE, more=len(put_back), evaluator=evaluator)
    assert evaluator.seen == Counter(put_back)
    assert set(front(again)) == true_front(ALONE)


@pytest.mark.parametrize("case", ["size", "accuracy", "change", "two"])
def test_a_stricter_limit_needs_no_new_trial(case: str, whole: Search) -> None:
    """Every trial is judged again: the front is the stricter's, and no candidate is evaluated again."""
    before = whole(ALONE)
    assert set(front(before)) == true_front(ALONE)
    evaluator = Counting()
    store = whole(CASES[case], evaluator=evaluator)
    assert not evaluator.seen
    assert set(front(store)) == true_front(CASES[case])
    promised = {t.number for t in store.study.trials if all(v <= 0 for v in t.constraints.values())}
    assert [t for t in store.finished() if t.number in promised and not store.feasible(t.outcome)]


@pytest.mark.parametrize(("case", "field"), [("memory", "memory_bytes"), ("energy", "energy_mj")])
def test_what_was_not_measured_is_added_where_it_may_decide(case: str, field: str, whole: Search) -> None:
    """A new limit on memory or energy measures that of what meets the others, from what is known of it."""
    first = whole(ALONE)
    open_ones = {m.candidate: m for m in first.models() if ALONE.satisfied_by(m.measurement)}
    evaluator = Counting()
    store = whole(CASES[case], more=len(open_ones), evaluator=evaluator)
    assert evaluator.seen == Counter(open_ones.keys())
    for request in evaluator.requests:
        assert request.known == open_ones[request.candidate].measurements
        assert request.latencies == (open_ones[request.candidate].measurement.latency,)
        assert request.also == (case,)
    found = front(store)
    assert set(found) == true_front(CASES[case])
    assert all(getattr(m, field) is not None for m in found.values())
    ids = {m.candidate: (m.id, m.path) for m in store.models() if m.candidate in open_ones}
    assert ids == {c: (open_ones[c].id, open_ones[c].path) for c in ids}


def test_where_nothing_meets_all_limits_the_nearest_is_known(whole: Search) -> None:
    """The candidate whose largest excess is least is on the front that is reported, and among what is cut likewise."""
    limits = Limits(TARGET_MS, max_size_bytes=1.0, min_accuracy=FLOOR)
    store = whole(limits)
    assert not any(store.feasible(trial.outcome) for trial in store.finished())
    models = store.models()
    nearest = min(models, key=lambda m: limits.distance(m.measurement))
    assert nearest.candidate in front(store)
    assert nearest.id in [m.id for m in finalists(models, limits)]
    costs = {c: {n: e for n, e in limits.violations(m).items() if n != "accuracy"} for c, m in EVERYTHING.items()}
    least = min(max(costs[c].values()) for c in cut(store)["size"])
    near = store.nearest_cut(3)
    assert [m.measurement.size_bytes for m in near] == sorted(m.measurement.size_bytes for m in near)
    assert max(costs[near[0].candidate].values()) == least


def test_the_search_looks_where_all_limits_are_met(search: Search, small: AnalyticEvaluator) -> None:
    """On a larger problem a quarter of all candidates finds models that meet a size and a floor, all on the front."""
    everything = dict(small.everything())
    sizes = sorted(m.size_bytes for m in everything.values())
    limits = Limits(4.0, max_size_bytes=sizes[len(sizes) // 3], min_accuracy=0.6)
    store = search(small, trials=128, limits=limits)
    found = front(store)
    assert found
    assert all(limits.satisfied_by(m) for m in found.values())
    assert max(m.accuracy for m in found.values()) >= 0.95 * max(
        m.accuracy for m in everything.values() if limits.satisfied_by(m)
    )


@pytest.mark.parametrize("field", ["max_memory_bytes", "max_energy_mj"])
def test_proposals_keep_to_what_a_limit_allows(field: str, search: Search) -> None:
    """The sampler learns what candidates hold and draw from those that were measured or cut, and stays within it."""
    problem = AnalyticEvaluator(6)
    (unchanged,) = problem.evaluate(Request(folder="", candidate=Candidate(), epochs=0, also=ALSO))
    assert unchanged.memory_bytes is not None
    assert unchanged.energy_mj is not None
    most = {"max_memory_bytes": 0.5 * unchanged.memory_bytes, "max_energy_mj": 0.25 * unchanged.energy_mj}[field]
    store = search(problem, trials=40, sampler="surrogate", limits=replace(Limits(4.0), **{field: most}))
    starts = {trial.number for trial in store.study.trials if "fixed_params" in trial.system_attrs}
    proposed = [trial.outcome for trial in store.finished() if trial.number not in starts]
    assert len(proposed) >= 25
    over = [found for found in proposed if isinstance(found, Infeasible) and found.rung in ALSO]
    assert len(over) <= 0.4 * len(proposed)
