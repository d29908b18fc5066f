"""What is not offered, since it does not pay."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.profiles.cost_model import CostModel
from autocompress.profiles.level_filter import (
    PAYS,
    SMALL,
    DroppedLevel,
    levels_without_speedup,
    reduced,
    remaining,
    summary,
)
from autocompress.profiles.profile import Profile
from autocompress.spaces.candidate import BITS, DEPTH, PALETTE, PRUNING_RATIO, QUANTIZATION, RANK, Candidate
from autocompress.spaces.layers import Branch
from autocompress.spaces.space import Choice, Space

PROBLEM = AnalyticEvaluator(4)
PROFILE = Profile.from_dict(PROBLEM.profile())
LAYERS = tuple(PROFILE.costs.layer_ms)
RANKS = (0.5, 0.375, 0.25, 0.125)
SPACE = Space(
    (
        *PROBLEM.space.choices,
        *(Choice(axis=RANK, target=name, levels=(1.0, *RANKS), neutral=1.0) for name in LAYERS),
        *(Choice(axis=PALETTE, target=name, levels=(32, 4), neutral=32) for name in LAYERS),
        Choice(axis=QUANTIZATION, target="calibration", levels=("max", "mse"), needs=BITS),
    )
)
anything = st.floats(0.05, 3.0)
factors_of_all = st.fixed_dictionaries(
    {name: st.fixed_dictionaries({str(rank): anything for rank in RANKS}) for name in LAYERS}
)


def integers(**slow: float) -> CostModel:
    """Return costs where INT8 halves every layer but some."""
    return replace(PROFILE.costs, factors={BITS: {name: {"8": slow.get(name, 0.5)} for name in LAYERS}})


def test_a_layer_that_gets_slower_is_dropped_and_listed() -> None:
    """Its level goes with its times before and after, and the same level of other layers stays."""
    costs = integers(layer1=1.5)
    (gone,) = levels_without_speedup(SPACE, costs, PROFILE.network)
    before_ms = costs.layer_ms["layer1"]
    assert gone == DroppedLevel(name="bits:layer1", level=8, before_ms=before_ms, after_ms=1.5 * before_ms)
    left = reduced(SPACE, [gone])
    assert set(SPACE.sizes) - set(left.sizes) == {"bits:layer1"}


@given(factors_of_all)
def test_exactly_what_does_not_pay_goes(factors: dict[str, dict[str, float]]) -> None:
    """No level that was measured not to pay is left, all others are, and what is left is still the same to choose."""
    costs = replace(PROFILE.costs, factors={RANK: factors})
    left = reduced(SPACE, levels_without_speedup(SPACE, costs, PROFILE.network))
    kept = {choice.target: choice.levels[1:] for choice in left.on(RANK)}
    for name in LAYERS:
        assert kept.get(name, ()) == tuple(rank for rank in RANKS if factors[name][str(rank)] < PAYS)
    assert [c for c in left.choices if c.axis != RANK] == [c for c in SPACE.choices if c.axis != RANK]
    strongest = left.at(lambda choice: len(choice.levels) - 1)
    assert SPACE.candidate(SPACE.levels(strongest)) == strongest


def test_what_was_not_measured_stays() -> None:
    """Without factors nothing is dropped."""
    assert levels_without_speedup(SPACE, replace(PROFILE.costs, factors={}), PROFILE.network) == ()


def with_small(slow: float, uniform_ms: float) -> CostModel:
    """Return costs with a first layer of half the share that is judged, and a second that gets slower."""
    layer_ms = {**PROFILE.costs.layer_ms, "layer0": 0.0}
    layer_ms["layer0"] = 0.5 * SMALL * (sum(layer_ms.values()) + PROFILE.costs.other_ms)
    factors = {BITS: {name: {"8": 0.5} for name in LAYERS} | {"layer0": {"8": slow}, "layer1": {"8": 1.2}}}
    return replace(PROFILE.costs, layer_ms=layer_ms, factors=factors, uniform_ms={BITS: {"8": uniform_ms}})


def test_a_small_layer_is_not_judged_on_noise() -> None:
    """A profiler's word alone drops no layer under a hundredth of the time, whatever it says."""
    gone = levels_without_speedup(SPACE, with_small(slow=2.0, uniform_ms=6.0), PROFILE.network)
    assert {each.target for each in gone} == {"layer1"}


def test_a_small_layer_goes_where_the_whole_network_is_slower() -> None:
    """Where INT8 everywhere was measured to be slower than float, a small layer that is slower goes as well."""
    gone = levels_without_speedup(SPACE, with_small(slow=2.0, uniform_ms=12.0), PROFILE.network)
    assert {each.target for each in gone} == {"layer0", "layer1"}
    kept = levels_without_speedup(SPACE, with_small(slow=0.9, uniform_ms=12.0), PROFILE.network)
    assert {each.target for each in kept} == {"layer1"}


def test_what_is_for_size_is_not_judged() -> None:
    """Bits stay where size counts; pruning and palettes stay in any case."""
    slow = integers(**dict.fromkeys(LAYERS, 2.0))
    assert levels_without_speedup(SPACE, slow, PROFILE.network, size_counts=True) == ()
    left = reduced(SPACE, levels_without_speedup(SPACE, slow, PROFILE.network))
    assert {choice.axis for choice in left.choices} == {PRUNING_RATIO, RANK, PALETTE}


def test_a_branch_that_saves_nothing_is_not_offered() -> None:
    """Depth is judged by the time of all layers of a branch; one that saves time stays on offer."""
    branches = (Branch(name="layer1", layers=LAYERS[:2]), Branch(name="layer3", layers=LAYERS[2:]))
    network = replace(PROFILE.network, branches=branches)
    depth = [Choice(axis=DEPTH, target=b.name, levels=("kept", "gone"), neutral="kept") for b in branches]
    costs = replace(PROFILE.costs, factors={DEPTH: {"layer1": {"gone": 1.1}, "layer3": {"gone": 0.1}}})
    (gone,) = levels_without_speedup(Space((*SPACE.choices, *depth)), costs, network)
    before_ms = sum(costs.layer_ms[name] for name in LAYERS[:2])
    assert gone == DroppedLevel(name="depth:layer1", level="gone", before_ms=before_ms, after_ms=1.1 * before_ms)


def test_settings_go_with_their_axis() -> None:
    """A setting of an axis on which nothing is left to choose is no choice either."""
    gone = [DroppedLevel(name=f"bits:{name}", level=8, before_ms=1.0, after_ms=2.0) for name in LAYERS]
    assert QUANTIZATION in {choice.axis for choice in reduced(SPACE, gone[1:]).choices}
    assert QUANTIZATION not in {choice.axis for choice in reduced(SPACE, gone).choices}


def test_something_is_always_left() -> None:
    """Where nothing at all would pay, everything stays, for its size."""
    space = Space(tuple(SPACE.on(BITS)))
    assert levels_without_speedup(space, integers(**dict.fromkeys(LAYERS, 2.0)), PROFILE.network) == ()


@given(st.sets(st.sampled_from(RANKS), max_size=3), st.floats(0.0, 10.0))
def test_levels_that_are_left_keep_their_damage(without: set[float], probed: float) -> None:
    """Dropping levels changes neither the damage of the others nor that of other choices."""
    gone = [DroppedLevel(name="rank:layer0", level=rank, before_ms=1.0, after_ms=1.0) for rank in without]
    left = reduced(SPACE, gone)
    told = tuple(probed * level for level in range(1 + len(RANKS)))
    after = remaining({"rank:layer0": told, "rank:layer1": told}, SPACE, left)
    assert after["rank:layer0"] == tuple(told[i] for i, rank in enumerate((1.0, *RANKS)) if rank not in without)
    assert after["rank:layer1"] == told


def test_a_profile_keeps_what_was_dropped() -> None:
    """A profile read back from JSON gives the same space without measuring again."""
    dropped = levels_without_speedup(SPACE, integers(layer1=1.5, layer2=1.1), PROFILE.network)
    network = replace(PROFILE.network, branches=(Branch(name="layer1", layers=LAYERS[:2]),))
    profile = replace(PROFILE, dropped=dropped, network=network)
    again = Profile.from_dict(json.loads(json.dumps(profile.to_dict())))
    assert again == profile
    assert again.space(SPACE) == reduced(SPACE, profile.dropped)
    assert again.space(SPACE).fingerprint != SPACE.fingerprint
    assert again.space(SPACE).candidate({}) == Candidate()


def test_the_summary_names_those_that_lose_most() -> None:
    """One line names each level, how many layers, and the first of them; without any it is empty."""
    gone = [DroppedLevel(name=f"bits:conv{i}", level=8, before_ms=1.0, after_ms=1.0 + i) for i in range(5)]
    text = summary([*gone, DroppedLevel(name="rank:fc", level=0.5, before_ms=0.21, after_ms=0.34)], "onnxruntime")
    assert text == (
        "not offered, as they do not pay on onnxruntime: bits=8 of 5 layers "
        "(conv4 1 → 5 ms, conv3 1 → 4 ms, conv2 1 → 3 ms, …); rank=0.5 of 1 layer (fc 0.21 → 0.34 ms)"
    )
    assert summary([], "onnxruntime") == ""
