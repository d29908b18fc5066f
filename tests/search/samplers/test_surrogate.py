"""The parts of the surrogate: predictions of many points, gained hypervolume, beliefs, and what comes of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.pareto.dominance import hypervolume
from autocompress.pareto.objectives import front_hypervolume
from autocompress.profiles.profile import Profile
from autocompress.search.samplers.cost_predictor import CostPredictor
from autocompress.search.samplers.damage_model import FORMS, DamageModel
from autocompress.search.samplers.encoding import EncodedSpace, LevelArray, Numbers
from autocompress.search.samplers.history import History
from autocompress.search.samplers.hypervolume_improvement import Improvement
from autocompress.search.samplers.initial_design import descend
from autocompress.search.samplers.knapsack import least_damage
from autocompress.search.samplers.variation import Moves
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, QUANTIZATION, Candidate
from autocompress.spaces.space import Choice, Space
from autocompress.storage.study_store import StudyStore

PROBLEM = AnalyticEvaluator(6)
PROFILE = Profile.from_dict(PROBLEM.profile())
TABLES = EncodedSpace(PROBLEM.space, PROFILE)
SETTING = Choice(axis=QUANTIZATION, target="ranges", levels=("mse", "max", "entropy"), needs=BITS)
SET = EncodedSpace(Space((*PROBLEM.space.choices, SETTING)), PROFILE)
TARGET_MS = 4.0
AXES = (PRUNING_RATIO, BITS)

seeds = st.integers(0, 2**32 - 1)
unit = st.floats(0.0, 1.2)


@given(seeds)
def test_latencies_of_many_points_are_those_of_each(seed: int) -> None:
    """The tables predict what the profile does, and fewer bits or channels make no file larger."""
    points = Moves(TABLES).random(np.random.default_rng(seed), 8)
    alone = [PROFILE.predict_ms(PROBLEM.space.candidate(TABLES.levels(point))) for point in points]
    assert TABLES.latency_ms(points) == pytest.approx(alone)
    stronger = np.minimum(points + 1, TABLES.sizes - 1)
    assert (TABLES.size_bytes(stronger) <= TABLES.size_bytes(points)).all()


@given(
    st.lists(st.tuples(unit, unit, unit), max_size=12), st.lists(st.tuples(unit, unit, unit), min_size=1, max_size=6)
)
def test_improvement_is_what_the_hypervolume_gains(
    front: list[tuple[float, ...]], points: list[tuple[float, ...]]
) -> None:
    """A point adds the difference of two hypervolumes, whatever lies outside of the box."""
    before, ones = np.array(front, dtype=float).reshape(-1, 3), np.ones(3)
    gained = Improvement(before)(np.array(points))
    expected = [hypervolume(np.concatenate([before, [point]]), ones) - hypervolume(before, ones) for point in points]
    assert gained == pytest.approx(expected, abs=1e-9)


@given(seeds)
def test_moves_stay_in_the_space(seed: int) -> None:
    """Children and neighbours are points of the space, settings of an absent axis are at rest, and all differ."""
    rng, moves = np.random.default_rng(seed), Moves(SET)
    points = moves.random(rng, 16)
    children = moves.children(rng, points, points, 2.0)
    near = moves.neighbours(points[0])
    for each in (points, children, near):
        assert ((each >= 0) & (each < SET.sizes)).all()
        assert (SET.canonical(each) == each).all()
    assert (children != points).any(axis=1).all()
    assert (near != points[0]).any(axis=1).all()


def timed(points: LevelArray, latency_ms: Numbers) -> History:
    """Return trials of which only the latency is known."""
    unknown = np.full(len(points), np.nan)
    none = np.zeros(len(points), dtype=bool)
    return History(points, unknown, latency_ms, latency_ms, unknown, unknown, unknown, none, None, points[:0])


@given(seeds, st.integers(0, 20), st.floats(0.0, 1.0))
def test_predicted_latencies_are_positive(seed: int, known: int, noise: float) -> None:
    """Whatever was measured, and however little."""
    rng = np.random.default_rng(seed)
    points = Moves(TABLES).random(rng, known + 20)
    measured = TABLES.latency_ms(points[:known]) * np.exp(noise * rng.standard_normal(known))
    assert (CostPredictor(TABLES, timed(points[:known], measured)).latency_ms(points) > 0).all()


@pytest.mark.parametrize("power", [1.0, 0.6])
def test_costs_learn_what_the_profile_misjudges(power: float) -> None:
    """Layers that cost other than profiled, or small networks that cost more than their layers: both are learned."""
    rng = np.random.default_rng(0)
    points = Moves(TABLES).random(rng, 120)
    layers = np.exp(np.stack([TABLES.over_layers(TABLES.times(axis), points) for axis in AXES]).sum(axis=0))
    weights = np.exp(0.3 * rng.standard_normal(layers.shape[1])) if power == 1 else np.ones(layers.shape[1])
    truth = (layers @ (weights * TABLES.layer_ms) + PROFILE.costs.other_ms) ** power
    told = CostPredictor(TABLES, timed(points[:30], truth[:30])).latency_ms(points[30:])
    before = TABLES.latency_ms(points[30:]) * np.median(truth[:30] / TABLES.latency_ms(points[:30]))
    assert np.abs(np.log(told / truth[30:])).mean() < 0.5 * np.abs(np.log(before / truth[30:])).mean()


def test_a_belief_learns_which_choices_hurt() -> None:
    """From noiseless trials the model comes to predict damages that the sensitivities misjudge by a factor of two."""
    rng, moves = np.random.default_rng(0), Moves(TABLES)
    points = moves.children(rng, *(moves.random(rng, 120) // 2,) * 2, 2.0)
    damage = _damage(points)
    fitted = DamageModel(TABLES).fit(points[:60], damage[:60])
    (predicted,) = fitted.sample(rng, 1, 0.0)(points[60:])
    (guessed,) = DamageModel(TABLES).fit(points[:3], damage[:3]).sample(rng, 1, 0.0)(points[60:])
    error, before = (np.abs(each - damage[60:]).mean() for each in (predicted, guessed))
    assert error < 0.2 * np.abs(damage[60:] - damage[60:].mean()).mean()
    assert error < 0.5 * before


def test_beliefs_spread_with_the_temperature() -> None:
    """At temperature zero all samples are one; the hotter, the more they differ, and no harm ever helps."""
    points = Moves(TABLES).random(np.random.default_rng(1), 40)
    fitted = DamageModel(TABLES).fit(points[:12], _damage(points[:12]))
    spreads = [
        float(fitted.sample(np.random.default_rng(2), 30, temperature)(points).std(axis=0).mean())
        for temperature in (0.0, 0.3, 1.0)
    ]
    assert spreads[0] == pytest.approx(0.0, abs=1e-12)
    assert spreads[0] < spreads[1] < spreads[2]
    assert (fitted.sample(np.random.default_rng(3), 30, 3.0).coefficients[: 2 * 6] > 0).all()


def test_every_form_predicts() -> None:
    """Also far from what was measured, and where nothing is compressed, no form gives anything but numbers."""
    points = np.concatenate([np.zeros((1, len(TABLES.sizes)), dtype=int), (TABLES.sizes - 1)[None]])
    model = DamageModel(TABLES)
    for form in FORMS:
        assert np.isfinite(model.features(form, 1.0, points)).all()


@settings(max_examples=25, deadline=None)
@given(st.floats(1.5, 9.0))
def test_the_knapsack_damages_no_more_than_a_descent(target_ms: float) -> None:
    """It meets what a greedy descent meets, and damages as little or less."""
    start = descend(PROBLEM.space, PROFILE, dict.fromkeys(PROBLEM.space.sizes, 0), target_ms)
    found = least_damage(TABLES, start, target_ms)
    met = PROFILE.predict_ms(PROBLEM.space.candidate(start)) <= target_ms
    assert PROFILE.damage_of(PROBLEM.space, found) <= PROFILE.damage_of(PROBLEM.space, start) + 1e-9 or not met
    assert PROFILE.predict_ms(PROBLEM.space.candidate(found)) <= target_ms + 1e-9 or not met


def test_the_surrogate_beats_mutation(search: Callable[..., StudyStore]) -> None:
    """On a problem of 24 choices it finds more hypervolume in fifty trials than mutation does in a hundred."""
    problem = AnalyticEvaluator(12)
    (baseline,) = problem.evaluate(Request(folder="", candidate=Candidate(), epochs=0))
    medians = {}
    for sampler, trials in (("surrogate", 50), ("mutation", 100)):
        volumes = []
        for seed in range(3):
            store = search(problem, trials=trials, sampler=sampler, seed=seed, name=f"{sampler}{seed}")
            meeting = [m.measurement for m in store.models() if m.measurement.latency.meets(TARGET_MS)]
            volumes.append(front_hypervolume(meeting, baseline, TARGET_MS))
        medians[sampler] = statistics.median(volumes)
    assert medians["surrogate"] > medians["mutation"]


def _damage(points: np.ndarray) -> np.ndarray:
    """Return what points really damage."""
    accuracies = []
    for point in points:
        (measured,) = PROBLEM.evaluate(
            Request(folder="", candidate=PROBLEM.space.candidate(TABLES.levels(point)), epochs=0)
        )
        accuracies.append(measured.accuracy)
    assert {choice.axis for choice in PROBLEM.space.choices} == {PRUNING_RATIO, BITS}
    return -np.log(np.maximum(np.array(accuracies) / 0.95, 0.02))
