"""The first trials."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.search.profile import Profile, middle
from autocompress.search.warmstart import (
    DESCENTS,
    GRID,
    descend,
    uniform,
    uniform_pruning_that_meets,
    warm_start,
)
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, Candidate

PROBLEM = AnalyticEvaluator(6)
SPACE = PROBLEM.space
PROFILE = Profile.from_dict(PROBLEM.profile())
STRONGEST = {name: size - 1 for name, size in SPACE.sizes.items()}
FLOOR_MS = PROFILE.predict_ms(SPACE.candidate(STRONGEST))
UNCHANGED = SPACE.levels(Candidate())

targets = pytest.mark.parametrize("target_ms", [9.0, 6.0, 4.0, 2.0, 0.5])


@targets
def test_the_obvious_comes_first(target_ms: float) -> None:
    """The baseline is the first trial, uniform INT8 the second, uniform pruning follows, each with its role."""
    starts = warm_start(SPACE, PROFILE, target_ms)
    roles = [start.role for start in starts]
    pruning = uniform_pruning_that_meets(SPACE, PROFILE, target_ms)
    assert roles[:4] == ["baseline", "uniform int8", f"uniform −{pruning:.0%}", f"uniform int8 −{pruning:.0%}"]
    assert set(roles[4:]) == {""}
    assert starts[0].candidate == Candidate()
    assert set(starts[1].candidate[BITS].values()) == {8}
    assert not starts[1].candidate[PRUNING_RATIO]


@targets
def test_no_start_comes_twice(target_ms: float) -> None:
    """Every start is a new point of the space."""
    candidates = [start.candidate for start in warm_start(SPACE, PROFILE, target_ms)]
    assert len(set(candidates)) == len(candidates)
    assert all(SPACE.candidate(SPACE.levels(candidate)) == candidate for candidate in candidates)


@targets
@pytest.mark.parametrize("share", DESCENTS)
def test_descents_meet_the_target_or_reach_the_floor(target_ms: float, share: float) -> None:
    """A descent ends as soon as its target is predicted to be met, or where nothing saves any more."""
    levels = descend(SPACE, PROFILE, UNCHANGED, share * target_ms)
    predicted_ms = PROFILE.predict_ms(SPACE.candidate(levels))
    if share * target_ms >= FLOOR_MS:
        assert predicted_ms <= share * target_ms
    else:
        assert levels == STRONGEST


def test_descents_take_no_more_than_they_need() -> None:
    """Where the target is met already nothing is changed, and a milder target changes less."""
    assert descend(SPACE, PROFILE, UNCHANGED, 10.0) == UNCHANGED
    steps = [sum(descend(SPACE, PROFILE, UNCHANGED, target_ms).values()) for target_ms in (8.0, 6.0, 4.0)]
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-1]


@targets
def test_descents_are_greedy(target_ms: float) -> None:
    """Each step is the one of all that saves most milliseconds for the damage that the profile knows of."""
    levels = dict(UNCHANGED)

    def score(name: str) -> float:
        then = {**levels, name: levels[name] + 1}
        saved = PROFILE.predict_ms(SPACE.candidate(levels)) - PROFILE.predict_ms(SPACE.candidate(then))
        return saved / (PROFILE.damage_of(SPACE, then) - PROFILE.damage_of(SPACE, levels) + 1e-6)

    while PROFILE.predict_ms(SPACE.candidate(levels)) > target_ms and levels != STRONGEST:
        best = max((name for name in SPACE.sizes if levels[name] < STRONGEST[name]), key=score)
        levels[best] += 1
    assert descend(SPACE, PROFILE, UNCHANGED, target_ms) == levels


@pytest.mark.parametrize("broken", ["pruning_ratio:layer2", "bits:layer0"])
@pytest.mark.parametrize("quantized", [False, True])
def test_descents_go_round_what_cannot_be_applied(broken: str, quantized: bool) -> None:
    """A choice of infinite damage is taken by no descent, and does not keep the others from being taken."""
    profile = replace(PROFILE, damage={**PROFILE.damage, broken: float("inf")})
    start = SPACE.levels(uniform(SPACE, 0.0, quantized=quantized))
    levels = descend(SPACE, profile, start, 3.0)
    assert profile.predict_ms(SPACE.candidate(levels)) <= 3.0
    assert levels[broken] == start[broken]


@pytest.mark.parametrize("ratio", [0.0, *GRID])
@pytest.mark.parametrize("quantized", [False, True])
def test_uniform_treats_all_alike(ratio: float, quantized: bool) -> None:
    """Every group loses about the same share, and every layer has the same bits."""
    candidate = uniform(SPACE, ratio, quantized=quantized)
    ratios = [float(candidate[PRUNING_RATIO].get(group.name, 0.0)) for group in PROBLEM.network.groups]
    assert len(set(ratios)) == 1
    assert abs(ratios[0] - ratio) <= 0.125
    assert len(candidate[BITS]) == (6 if quantized else 0)


def test_uniform_pruning_is_the_mildest_that_meets() -> None:
    """The next milder ratio of the grid misses the target; where none meets it, it is the strongest."""
    ratio = uniform_pruning_that_meets(SPACE, PROFILE, 6.0)
    milder = [r for r in GRID if r < ratio]
    assert PROFILE.predict_ms(uniform(SPACE, ratio, quantized=False)) <= 6.0
    assert all(PROFILE.predict_ms(uniform(SPACE, r, quantized=False)) > 6.0 for r in milder)
    assert uniform_pruning_that_meets(SPACE, PROFILE, 0.1) == GRID[-1]


def test_damage_grows_with_the_square() -> None:
    """At its middle level a choice has the damage that was probed, at twice that level four times as much."""
    choice = next(choice for choice in SPACE.choices if choice.axis == PRUNING_RATIO)
    probed = PROFILE.damage[choice.name]
    assert PROFILE.damage_of(SPACE, {**UNCHANGED, choice.name: middle(choice)}) == pytest.approx(probed)
    assert PROFILE.damage_of(SPACE, {**UNCHANGED, choice.name: 2 * middle(choice)}) == pytest.approx(4 * probed)
    assert PROFILE.damage_of(SPACE, UNCHANGED) == 0.0
