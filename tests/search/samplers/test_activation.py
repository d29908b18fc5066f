"""Cheaper activation functions, in the samplers' arithmetic and among the first candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autocompress.compressors.activations import Exchange
from autocompress.compressors.depth.depth import Depth
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.profiles.profile import Profile
from autocompress.search.samplers.encoding import EncodedSpace
from autocompress.search.samplers.features import Features
from autocompress.search.samplers.initial_design import exchanging, warm_start
from autocompress.spaces.candidate import ACTIVATION, BITS, DEPTH
from autocompress.spaces.capabilities import Capabilities
from autocompress.spaces.layers import Activations, Branch
from autocompress.spaces.space import Space

PROBLEM = AnalyticEvaluator(6)
FLAT = Profile.from_dict(PROBLEM.profile())
FUNCTIONS = (
    Activations(name="early", functions=("silu", "sigmoid"), layers=("layer0", "layer1")),
    Activations(name="late", functions=("gelu",), layers=("layer3",)),
)
NETWORK = replace(FLAT.network, activations=FUNCTIONS, branches=(Branch(name="layer4", layers=("layer3", "layer4")),))
ABLE = Capabilities(runtime="fake")
CHOICES = (
    *PROBLEM.space.choices,
    *(choice for technique in (Exchange(), Depth()) for choice in technique.choices(NETWORK, ABLE)),
)
SPACE = Space(CHOICES, tuple(Depth().conflicts(NETWORK, CHOICES)))
PROFILE = replace(
    FLAT,
    network=NETWORK,
    costs=replace(
        FLAT.costs,
        factors={**FLAT.costs.factors, ACTIVATION: {"early": {"hard": 0.5, "relu": 0.6}, "late": {"relu": 0.9}}},
    ),
    damage={**FLAT.damage, "activation:early": (0.0, 0.1, 0.9), "activation:late": (0.0, 0.9)},
)
TABLES = EncodedSpace(SPACE, PROFILE)
POINTS = np.array([[np.random.default_rng(i).integers(size) for size in TABLES.sizes] for i in range(100)])


def test_a_stage_changes_the_latency_of_its_layers_alone() -> None:
    """The layers before the functions take the measured share of their time, and points cost what candidates do."""
    candidate = SPACE.candidate({"activation:early": 1})
    own = PROFILE.costs.layer_ms["layer0"] + PROFILE.costs.layer_ms["layer1"]
    assert np.isclose(PROFILE.costs.total_ms - PROFILE.predict_ms(candidate), 0.5 * own)
    canonical = TABLES.canonical(POINTS)
    told = [PROFILE.predict_ms(SPACE.candidate(TABLES.levels(point))) for point in canonical]
    np.testing.assert_allclose(TABLES.latency_ms(canonical), told)
    assert np.isfinite(Features(TABLES)(canonical).parts).all()


def test_functions_of_a_branch_that_is_gone_mean_nothing() -> None:
    """What would be exchanged in a branch goes with it."""
    gone = SPACE.candidate({"depth:layer4": 1, "activation:late": 1, "activation:early": 1})
    assert gone[DEPTH].keys() == {"layer4"}
    assert gone[ACTIVATION].keys() == {"early"}


def test_one_of_the_first_candidates_has_the_fastest_functions() -> None:
    """Whatever they damage before training, the fastest functions are tried everywhere, beside INT8."""
    point = exchanging(SPACE, PROFILE)
    assert point is not None
    assert SPACE.candidate(point)[ACTIVATION] == {"early": "hard", "late": "relu"}
    starts = [start.candidate for start in warm_start(SPACE, PROFILE, PROFILE.predict_ms(SPACE.candidate(point)))]
    assert any(each[ACTIVATION].get("early") == "hard" and len(each[BITS]) == 6 for each in starts)
    assert exchanging(PROBLEM.space, FLAT) is None
