"""Branches that go, in the samplers' arithmetic."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autocompress.compressors.depth.depth import Depth
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.profiles.profile import Profile
from autocompress.search.samplers.encoding import EncodedSpace
from autocompress.search.samplers.features import Features
from autocompress.search.samplers.initial_design import shallow_enough, warm_start
from autocompress.search.samplers.variation import Moves
from autocompress.spaces.candidate import BITS, DEPTH, PRUNING_RATIO
from autocompress.spaces.capabilities import Capabilities
from autocompress.spaces.layers import Branch
from autocompress.spaces.space import Space

PROBLEM = AnalyticEvaluator(6)
FLAT = Profile.from_dict(PROBLEM.profile())
BRANCHES = (
    Branch(name="layer4", layers=("layer2", "layer3", "layer4")),
    Branch(name="layer3", layers=("layer3",)),
    Branch(name="layer1", layers=("layer1",)),
)
NETWORK = replace(FLAT.network, branches=BRANCHES)
CHOICES = (*PROBLEM.space.choices, *Depth().choices(NETWORK, Capabilities(runtime="fake", bits=(32, 8))))
SPACE = Space(CHOICES, tuple(Depth().conflicts(NETWORK, CHOICES)))
PROFILE = replace(
    FLAT,
    network=NETWORK,
    costs=replace(
        FLAT.costs, factors={**FLAT.costs.factors, DEPTH: {branch.name: {"gone": 0.1} for branch in BRANCHES}}
    ),
    damage={**FLAT.damage, "depth:layer4": (0.0, 0.02), "depth:layer3": (0.0, 0.01), "depth:layer1": (0.0, 0.05)},
)
TABLES = EncodedSpace(SPACE, PROFILE)
POINTS = np.array([[np.random.default_rng(i).integers(size) for size in TABLES.sizes] for i in range(200)])


def test_points_and_candidates_agree_on_what_means_nothing() -> None:
    """What a point's candidate leaves out beside branches that are gone has the first level in its canonical point."""
    for point, canonical in zip(POINTS, TABLES.canonical(POINTS), strict=True):
        assert TABLES.levels(canonical) == SPACE.levels(SPACE.candidate(TABLES.levels(point)))
    gone = SPACE.candidate({choice.name: len(choice.levels) - 1 for choice in CHOICES})
    assert gone[DEPTH].keys() == {"layer4", "layer1"}
    assert gone[BITS].keys() == gone[PRUNING_RATIO].keys() == {"layer0", "layer5"}


def test_costs_of_points_are_those_of_their_candidates() -> None:
    """Latencies are those of the profile, and what is gone has no bytes."""
    canonical = TABLES.canonical(POINTS)
    told = [PROFILE.predict_ms(SPACE.candidate(TABLES.levels(point))) for point in canonical]
    np.testing.assert_allclose(TABLES.latency_ms(canonical), told)
    without = TABLES.row({"depth:layer4": 1})
    whole = 4 * sum(layer.params for layer in NETWORK.layers if layer.name not in BRANCHES[0].layers)
    assert TABLES.size_bytes(without)[0] == pytest.approx(whole, rel=1e-3)
    assert np.isfinite(Features(TABLES)(canonical).parts).all()


def test_children_differ_in_something_that_means_something() -> None:
    """No child of a point without branches is the same network as its parent."""
    parent = TABLES.row({"depth:layer4": 1, "depth:layer1": 1}).repeat(100, 0)
    children = Moves(TABLES).children(np.random.default_rng(0), parent, parent, rate=1.0)
    assert (children != parent).any(axis=1).all()


def test_one_of_the_first_candidates_is_shallow() -> None:
    """Branches go first that save most for their damage, beside INT8, where that alone meets the target."""
    target_ms = 0.7 * PROFILE.predict_ms(SPACE.candidate({f"bits:layer{i}": 1 for i in range(6)}))
    found = shallow_enough(SPACE, PROFILE, target_ms)
    assert found is not None
    assert PROFILE.predict_ms(found) <= target_ms
    assert found[DEPTH]
    assert not found[PRUNING_RATIO]
    assert found[BITS].keys() == {f"layer{i}" for i in range(6)} - {*NETWORK.reached(DEPTH, "layer4")}
    assert found in [start.candidate for start in warm_start(SPACE, PROFILE, target_ms / 0.9)]
    assert shallow_enough(SPACE, PROFILE, 0.01 * target_ms) is None
    assert shallow_enough(PROBLEM.space, FLAT, target_ms) is None
