"""Smaller images, in the samplers' arithmetic and among the first candidates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autocompress.compressors.resolution import Shrink
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.profiles.profile import Profile
from autocompress.search.samplers.encoding import EncodedSpace
from autocompress.search.samplers.features import Features
from autocompress.search.samplers.initial_design import warm_start
from autocompress.spaces.candidate import BITS, RESOLUTION
from autocompress.spaces.capabilities import Capabilities
from autocompress.spaces.space import Space

PROBLEM = AnalyticEvaluator(6)
FLAT = Profile.from_dict(PROBLEM.profile())
NETWORK = replace(FLAT.network, resolutions=(0.75, 0.5))
SPACE = Space((*PROBLEM.space.choices, *Shrink().choices(NETWORK, Capabilities(runtime="fake"))))
PROFILE = replace(
    FLAT,
    network=NETWORK,
    costs=replace(FLAT.costs, factors={**FLAT.costs.factors, RESOLUTION: {"input": {"0.75": 0.6, "0.5": 0.3}}}),
    damage={**FLAT.damage, "resolution:input": (0.0, 0.1, 0.9)},
)


def test_smaller_images_change_the_latency_of_all_layers() -> None:
    """All layers take the measured share of their time, beside what else is chosen; a stored profile says the same."""
    spent = sum(PROFILE.costs.layer_ms.values())
    predicted = PROFILE.predict_ms(SPACE.candidate({"resolution:input": 2}))
    assert np.isclose(PROFILE.costs.total_ms - predicted, 0.7 * spent)
    tables = EncodedSpace(SPACE, PROFILE)
    points = np.array([[np.random.default_rng(i).integers(size) for size in tables.sizes] for i in range(50)])
    canonical = tables.canonical(points)
    told = [PROFILE.predict_ms(SPACE.candidate(tables.levels(point))) for point in canonical]
    np.testing.assert_allclose(tables.latency_ms(canonical), told)
    assert np.isfinite(Features(tables)(canonical).parts).all()
    assert Profile.from_dict(PROFILE.to_dict()).network == NETWORK


def test_one_of_the_first_candidates_has_smaller_images() -> None:
    """The mildest smaller resolution is tried beside INT8; without any on offer none is."""
    starts = [start.candidate for start in warm_start(SPACE, PROFILE, 0.4 * PROFILE.costs.total_ms)]
    assert any(each[RESOLUTION] and len(each[BITS]) == 6 for each in starts)
    assert not any(s.candidate[RESOLUTION] for s in warm_start(PROBLEM.space, FLAT, 0.4 * FLAT.costs.total_ms))
