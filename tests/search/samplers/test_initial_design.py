"""The first trials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.profiles.profile import NARROW, Profile
from autocompress.search.options import Options
from autocompress.search.samplers.initial_design import (
    DESCENTS,
    GRID,
    descend,
    least_in_float,
    paying,
    uniform_pruning_that_meets,
    uniform_rank_that_meets,
    warm_start,
)
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, RANK, Candidate
from autocompress.spaces.space import Choice, Space
from autocompress.spaces.uniform import uniform

PROBLEM = AnalyticEvaluator(6)
SPACE = PROBLEM.space
PROFILE = Profile.from_dict(PROBLEM.profile())
RANKS = (1.0, 0.5, 0.25, 0.125)
STRONGEST = {name: size - 1 for name, size in SPACE.sizes.items()}
FLOOR_MS = PROFILE.predict_ms(SPACE.candidate(STRONGEST))
UNCHANGED = SPACE.levels(Candidate())

targets = pytest.mark.parametrize("target_ms", [9.0, 6.0, 4.0, 2.0, 0.5])


@targets
def test_reference_baselines_come_first(target_ms: float) -> None:
    """The baseline is the first trial, uniform pruning in INT8 the second, each of both follows, with its role."""
    starts = warm_start(SPACE, PROFILE, target_ms)
    roles = [start.role for start in starts]
    pruning = uniform_pruning_that_meets(SPACE, PROFILE, target_ms)
    assert roles[:4] == ["baseline", f"uniform int8 −{pruning:.0%}", "uniform int8", f"uniform −{pruning:.0%}"]
    assert set(roles[4:]) == {""}
    assert starts[0].candidate == Candidate()
    for start in starts[1:3]:
        assert set(start.candidate[BITS].values()) == {8}
    assert set(starts[1].candidate[PRUNING_RATIO].values()) == {pruning}
    assert not starts[2].candidate[PRUNING_RATIO]


def test_what_is_the_same_has_the_simplest_name() -> None:
    """Where nothing can be pruned, uniform INT8 pruned by any ratio is uniform INT8, and comes second."""
    space = Space(tuple(choice for choice in SPACE.choices if choice.axis != PRUNING_RATIO))
    assert [start.role for start in warm_start(space, PROFILE, 4.0)][:2] == ["baseline", "uniform int8"]


RANKED = Space((*SPACE.choices, *(Choice(axis=RANK, target=f"layer{i}", levels=RANKS, neutral=1.0) for i in range(6))))
FACTORS = {str(rank): 0.2 + 0.8 * rank for rank in RANKS[1:]}
SLOWER = replace(
    PROFILE,
    costs=replace(
        PROFILE.costs, factors={**PROFILE.costs.factors, RANK: dict.fromkeys(PROFILE.costs.layer_ms, FACTORS)}
    ),
    damage={**PROFILE.damage, **{f"rank:layer{i}": (0.0, 0.01, 0.04, 0.09)[: len(RANKS)] for i in range(6)}},
    global_pruning={"0.3": {"layer0": 0.75, "layer3": 0.5}, "0.5": {"layer1": 0.75}},
)


@targets
def test_uniform_ranks_are_a_reference_where_there_are_ranks(target_ms: float) -> None:
    """All layers at the largest share of their rank that meets the target, in INT8, is a reference baseline."""
    rank = uniform_rank_that_meets(RANKED, SLOWER, target_ms)
    (start,) = (s for s in warm_start(RANKED, SLOWER, target_ms) if "rank" in s.role)
    assert rank is not None
    assert start.role == f"uniform int8 rank {rank:.0%}"
    assert set(start.candidate[RANK].values()) == {rank}
    assert set(start.candidate[BITS].values()) == {8}
    milder = [r for r in RANKS[1:] if r > rank]
    assert all(SLOWER.predict_ms(uniform(RANKED, 0.0, quantized=True, rank=r)) > target_ms for r in milder)
    assert uniform_rank_that_meets(SPACE, PROFILE, target_ms) is None


def test_global_thresholds_are_among_the_first() -> None:
    """The ratios of a threshold over the whole network come as candidates, in INT8, at the nearest that is offered."""
    candidates = [start.candidate for start in warm_start(RANKED, SLOWER, 4.0)]
    for ratios in SLOWER.global_pruning.values():
        (found,) = (c for c in candidates if c[PRUNING_RATIO] == ratios)
        assert set(found[BITS].values()) == {8}


@targets
def test_one_of_the_first_is_in_float_where_narrow_layers_are_faster_so(target_ms: float) -> None:
    """It damages least within its share of the target; where narrow layers are faster in INT8, there is none."""
    halves = [uniform(SPACE, NARROW, quantized=quantized).to_dict() for quantized in (False, True)]
    slow, fast = (replace(PROFILE, timed=tuple(zip(halves, each, strict=True))) for each in ((2.0, 3.0), (2.0, 1.0)))
    found = least_in_float(SPACE, slow, DESCENTS[0] * target_ms)
    assert found is not None
    assert not found[BITS]
    floor_ms = PROFILE.predict_ms(uniform(SPACE, 1.0, quantized=False))
    assert PROFILE.predict_ms(found) <= max(DESCENTS[0] * target_ms, floor_ms) + 1e-9
    starts, others = ([start.candidate for start in warm_start(SPACE, each, target_ms)] for each in (slow, fast))
    assert found in starts
    assert set(starts) - {found} <= set(others) == {start.candidate for start in warm_start(SPACE, PROFILE, target_ms)}


def test_descents_begin_where_int8_pays() -> None:
    """A layer that the profile says is slower in INT8 begins in float; where only bits vary, none is in float alone."""
    factors = {name: {"8": 1.2 if name == "layer2" else 0.5} for name in PROFILE.costs.layer_ms}
    slow = replace(PROFILE, costs=replace(PROFILE.costs, factors={BITS: factors}))
    assert set(paying(SPACE, slow)[BITS]) == set(PROFILE.costs.layer_ms) - {"layer2"}
    assert least_in_float(Space(tuple(SPACE.on(BITS))), PROFILE, 4.0) is None


def test_the_warm_start_leaves_trials_for_the_search() -> None:
    """With ranks and thresholds, the first candidates are no more than three quarters of a study's trials."""
    assert len(warm_start(RANKED, SLOWER, 4.0)) <= 0.75 * Options(target_ms=4.0, out=Path("runs")).trials


def test_int8_is_8_bits_where_fewer_are_offered() -> None:
    """Uniform INT8 takes no layer's weights to four bits."""
    space = Space(tuple(replace(c, levels=(32, 8, 4)) for c in SPACE.on(BITS)))
    assert set(uniform(space, 0.0, quantized=True)[BITS].values()) == {8}


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
    profile = replace(PROFILE, damage={**PROFILE.damage, broken: (0.0, *[float("inf")] * 3)})
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


def test_damages_of_choices_add_up() -> None:
    """A point is taken to damage what its choices do alone; nothing does no harm."""
    first, second = (choice for choice in SPACE.choices if choice.target == "layer1")
    levels = {**UNCHANGED, first.name: 2, second.name: 1}
    alone = PROFILE.damage[first.name][2] + PROFILE.damage[second.name][1]
    assert PROFILE.damage_of(SPACE, levels) == pytest.approx(alone)
    assert PROFILE.damage_of(SPACE, UNCHANGED) == 0.0
