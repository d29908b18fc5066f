"""What is learned of latencies: how well they are predicted, how sure that is, and that it frees a stuck search."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from autocompress.evaluators.measurement import representative
from autocompress.search.samplers.cost_predictor import CostPredictor

Bench = dict[str, ModuleType]

MOST = {"fashion_mnist": 0.25, "stuck": 0.12, "overheads": 0.045, "additive": 0.03}
"""Root mean squares of the logarithm of the predictions for the next eight trials over what they took."""


@pytest.mark.parametrize("name", MOST)
def test_the_next_latencies_are_foretold(name: str, bench: Bench) -> None:
    """The trials so far predict the next ones, on real networks and where layers have fixed costs."""
    model = bench["latency_model"]
    timed = model.recorded(name) if name in model.RECORDED else model.imaginary(name, 0)
    differences = model.errors(timed, model.learned)
    assert model.root_mean_square(differences) < MOST[name]
    assert model.root_mean_square(differences) < 0.6 * model.root_mean_square(model.errors(timed, model.scaled))


def test_what_is_told_is_as_sure_as_it_says(bench: Bench) -> None:
    """Two thirds of the next latencies lie within a standard deviation of the prediction, nearly all within three."""
    model = bench["latency_model"]
    off = []
    for name in model.RECORDED:
        timed = model.recorded(name)
        for count in range(12, len(timed.levels) - 8, 4):
            told, spread = CostPredictor(timed.tables, timed.history(count)).latency(timed.levels[count : count + 8])
            off.append(np.abs(told - np.log(timed.latency_ms[count : count + 8])) / spread)
    within = [float((np.concatenate(off) < deviations).mean()) for deviations in (1, 3)]
    assert 0.6 < within[0] < 0.9
    assert within[1] > 0.95


def test_what_was_timed_for_the_profile_counts(bench: Bench) -> None:
    """Whole networks that the profile timed are known before the first trial; levels that went since do no harm."""
    timed = bench["latency_model"].recorded("stuck")
    space, profile = timed.tables.space, timed.tables.profile
    probes = [space.candidate(timed.tables.levels(timed.levels[row])) for row in (1, 2, 3)]
    known = tuple((each.to_dict(), float(timed.latency_ms[row])) for each, row in zip(probes, (1, 2, 3), strict=True))
    gone = (({"rank": {"linear": 0.75}}, 1.0),)
    tables = type(timed.tables)(space, replace(profile, timed=(*known, *gone)))
    none = timed.history(0)
    told = CostPredictor(tables, none).latency_ms(timed.levels[1:4])
    assert told == pytest.approx(timed.latency_ms[1:4], rel=0.15)
    assert CostPredictor(timed.tables, none).latency_ms(timed.levels[1:4]) != pytest.approx(
        timed.latency_ms[1:4], rel=0.5
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_search_that_is_stuck_finds_a_way_out(seed: int, bench: Bench) -> None:
    """Given fourteen trials of a study that never met its target, one of five proposals is under it."""
    proposed = bench["stuck"].proposals(bench["stuck"].StuckProblem(), "surrogate", seed)
    assert any(representative(next(proposed)[1]).latency.median_ms <= bench["stuck"].TARGET_MS for _ in range(5))
