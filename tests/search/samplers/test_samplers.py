"""Where candidates come from: one contract for all samplers, and what mutation promises beyond it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.pareto.limits import Limits
from autocompress.profiles.profile import Profile
from autocompress.search.options import SAMPLERS
from autocompress.search.samplers import create
from autocompress.search.samplers.mutation import crowding
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, QUANTIZATION, Candidate
from autocompress.spaces.space import Choice, Space
from autocompress.storage.study_store import PendingTrial, StudyStore

Open = Callable[..., StudyStore]
Evaluate = Callable[[PendingTrial], Outcome]

PROBLEM = AnalyticEvaluator(5)
PROFILE = Profile.from_dict(PROBLEM.profile())
TARGET_MS = 4.0

contract = pytest.mark.parametrize("sampler", SAMPLERS)


def measured(asked: PendingTrial) -> Outcome:
    """Return what a candidate costs, cut where it is too slow."""
    return PROBLEM.evaluate(Request(folder="", candidate=asked.candidate, epochs=0, target_ms=TARGET_MS))


def whole(asked: PendingTrial) -> Outcome:
    """Return what a candidate costs, however slow."""
    return PROBLEM.evaluate(Request(folder="", candidate=asked.candidate, epochs=0))


def broken(asked: PendingTrial) -> Outcome:
    """Return a reason without a latency."""
    return Infeasible(reason="it cannot be built", rung="build")


def told_on(scale: Callable[[float], float]) -> Evaluate:
    """Return what evaluates with a metric on another scale."""

    def evaluate(asked: PendingTrial) -> Outcome:
        found = measured(asked)
        return (replace(found[0], accuracy=scale(found[0].accuracy)),) if isinstance(found, tuple) else found

    return evaluate


def play(store: StudyStore, trials: int, evaluate: Evaluate = measured) -> list[Candidate]:
    """Ask and tell so often; return the candidates in order."""
    candidates = []
    for _ in range(trials):
        asked = store.ask()
        candidates.append(asked.candidate)
        store.tell(asked.number, evaluate(asked))
    return candidates


def is_inside(candidate: Candidate) -> bool:
    """Return whether a candidate is a point of the space."""
    return PROBLEM.space.candidate(PROBLEM.space.levels(candidate)) == candidate


@contract
def test_candidates_are_in_the_space(sampler: str, opened: Open) -> None:
    """Every candidate, before and after the warm start, is a point of the space."""
    candidates = play(opened(PROBLEM, sampler=sampler), 45)
    assert all(map(is_inside, candidates))
    assert len(set(candidates)) > 35


@contract
def test_same_seed_and_history_same_candidates(sampler: str, opened: Open) -> None:
    """Two studies with one seed propose the same; another seed proposes something else."""
    first, second, other = (
        play(opened(PROBLEM, sampler=sampler, seed=seed, name=name), 40)
        for seed, name in ((1, "first"), (1, "second"), (2, "other"))
    )
    assert first == second
    assert first != other


@contract
@pytest.mark.parametrize("evaluate", [measured, broken, whole])
def test_any_history_will_do(sampler: str, evaluate: Evaluate, opened: Open) -> None:
    """Trials that were cut, that could not be built, or that all miss the target do not stop a sampler."""
    store = opened(PROBLEM, sampler=sampler)
    play(store, 25, evaluate)
    assert all(map(is_inside, play(store, 5, evaluate)))


@contract
def test_running_trials_do_not_disturb(sampler: str, opened: Open) -> None:
    """While other trials run, and end in any order, new candidates still come."""
    store = opened(PROBLEM, sampler=sampler)
    play(store, 22)
    running = [store.ask() for _ in range(4)]
    assert all(is_inside(asked.candidate) for asked in running)
    for asked in reversed(running):
        store.tell(asked.number, measured(asked))
    assert all(map(is_inside, play(store, 3)))


@contract
def test_reopened_studies_go_on(sampler: str, opened: Open) -> None:
    """A study that is opened again keeps its trials and proposes more, no stream from its beginning."""
    store = opened(PROBLEM, sampler=sampler, warm=False)
    first = play(store, 15)
    again = opened(PROBLEM, sampler=sampler, warm=False)
    assert len(again.finished()) == 15
    more = play(again, 10)
    assert all(map(is_inside, more))
    assert more != first[:10]


def test_names_are_known(opened: Open) -> None:
    """A name that is no sampler's is a defect, which raises."""
    with pytest.raises(ValueError, match="no sampler is called 'gp'"):
        create("gp", space=PROBLEM.space, profile=PROFILE, judge=opened(PROBLEM), seed=0, finished=0)


def test_mutation_goes_on_as_if_it_had_not_been_interrupted(opened: Open) -> None:
    """Reopening a study after any trial changes none of the candidates that follow."""
    through = play(opened(PROBLEM, name="through"), 40)
    parts = play(opened(PROBLEM, name="parts"), 25) + play(opened(PROBLEM, name="parts"), 15)
    assert through == parts


def test_mutation_proposes_nothing_twice(opened: Open) -> None:
    """While there are other candidates, none comes that a trial had or has."""
    store = opened(PROBLEM)
    before = play(store, 40)
    running = [store.ask().candidate for _ in range(5)]
    assert len({*before, *running}) == 45


def test_mutation_is_never_stuck(opened: Open) -> None:
    """Where every candidate was seen, it repeats one."""
    tiny = AnalyticEvaluator(1)
    candidates = play(
        opened(tiny), 30, lambda asked: tiny.evaluate(Request(folder="", candidate=asked.candidate, epochs=0))
    )
    assert len(candidates) == 30
    assert len(set(candidates)) <= 8


def test_mutation_wastes_no_child_on_settings_of_absent_axes(tmp_path: Path) -> None:
    """Children differ from each other as candidates, however many settings matter only beside an axis."""
    settings = tuple(Choice(axis=QUANTIZATION, target=f"setting{i}", levels=(0, 1), needs=BITS) for i in range(30))
    pruning = tuple(PROBLEM.space.on(PRUNING_RATIO))
    (bits, *_) = PROBLEM.space.on(BITS)
    space = Space((*pruning, bits, *settings))
    store = StudyStore(tmp_path, None, "settings", space, Limits(TARGET_MS))
    store.study.sampler = create("mutation", space=space, profile=PROFILE, judge=store, seed=0, finished=0)
    store.begin([])
    candidates = play(store, 60)
    store.close()
    assert len(set(candidates)) == len(candidates)
    assert any(not candidate[BITS] for candidate in candidates)
    assert all(bool(candidate[BITS]) or not candidate[QUANTIZATION] for candidate in candidates)


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_mutation_aims_at_the_target(scale: float, opened: Open) -> None:
    """Children are predicted to meet the target, also when predictions prove too low and are corrected for it."""

    def slower(asked: PendingTrial) -> Outcome:
        outcome = whole(asked)
        return outcome if scale == 1.0 else _slowed(outcome, scale)

    store = opened(PROBLEM)
    play(store, 30, slower)
    predict = PROFILE.predict_ms
    children = [
        t for t in store.study.get_trials() if t.state == TrialState.COMPLETE and "fixed_params" not in t.system_attrs
    ]
    assert len(children) >= 5
    assert all(predict(PROBLEM.space.candidate(t.params)) * scale <= TARGET_MS for t in children)


def _slowed(outcome: Outcome, scale: float) -> Outcome:
    assert isinstance(outcome, tuple)
    latency = outcome[0].latency
    return (replace(outcome[0], latency=replace(latency, baseline_ms=latency.baseline_ms * scale)),)


def test_crowding_is_infinite_at_the_ends() -> None:
    """The ends of each objective are loneliest; between them the neighbours' distance counts, as in NSGA-II."""
    points = np.array([[0.0, 4.0], [1.0, 3.0], [2.0, 1.0], [4.0, 0.0]])
    assert crowding(points).tolist() == [np.inf, 2 / 4 + 3 / 4, 3 / 4 + 3 / 4, np.inf]


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**11])
def test_a_metrics_scale_changes_no_search(factor: float, opened: Open) -> None:
    """The surrogate proposes the same candidates for a metric in millionths, in shares and in thousands."""
    usual = play(opened(PROBLEM, sampler="surrogate", name="one"), 20)
    scaled = opened(PROBLEM, sampler="surrogate", name="two")
    assert play(scaled, 20, told_on(lambda value: factor * value)) == usual


@contract
@pytest.mark.parametrize(
    "scale",
    [lambda value: -1300 * (1.2 - value), lambda value: 30 * value - 25, lambda value: value - 0.95, lambda _: 0.0],
    ids=["negative thousands", "around nothing", "a baseline of 0", "nothing but 0"],
)
def test_any_finite_metric_can_be_searched(scale: Callable[[float], float], sampler: str, opened: Open) -> None:
    """An error in the thousands, a metric that changes its sign or is 0 ends in a search like any other."""
    found = play(opened(PROBLEM, sampler=sampler), 14, told_on(scale))
    assert len(set(map(Candidate.to_json, found))) > 5
