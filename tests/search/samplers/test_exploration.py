"""Where is looked when what was proposed proves too dear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.pareto.limits import Limits
from autocompress.profiles.profile import Profile
from autocompress.search.samplers.encoding import EncodedSpace
from autocompress.search.samplers.exploration import NEAREST, around, excess, misses, twins
from autocompress.search.samplers.history import History
from autocompress.search.samplers.variation import Moves
from autocompress.spaces.candidate import BITS, PRUNING_RATIO

PROBLEM = AnalyticEvaluator(5)
PROFILE = Profile.from_dict(PROBLEM.profile())
TABLES = EncodedSpace(PROBLEM.space, PROFILE)
MOVES = Moves(TABLES)
NAN = float("nan")


def history(high_ms: list[float], **known: list[float]) -> History:
    """Return trials of random points."""
    rng, unknown = np.random.default_rng(0), np.full(len(high_ms), NAN)
    costs = {name: np.array(known.get(name, unknown)) for name in ("size_bytes", "memory_bytes", "energy_mj")}
    return History(
        levels=MOVES.random(rng, len(high_ms)),
        accuracy=unknown,
        latency_ms=np.array(high_ms),
        high_ms=np.array(high_ms),
        **costs,
        feasible=np.zeros(len(high_ms), dtype=bool),
        baseline=None,
        others=MOVES.random(rng, 0),
    )


@pytest.mark.parametrize(
    ("high_ms", "expected"),
    [([], 0), ([NAN], 0), ([3.0], 0), ([5.0, 5.0], 2), ([5.0, 3.0, 5.0, NAN, 5.0], 2), ([5.0, 5.0, 4.0], 0)],
)
def test_misses_in_a_row_are_counted(high_ms: list[float], expected: int) -> None:
    """Only what was measured counts, and what meets the target to the millisecond is no miss."""
    assert misses(history(high_ms), Limits(4.0)) == expected


def test_the_worst_limit_counts() -> None:
    """A trial misses by the limit that it misses most, among those that were asked for and measured."""
    trials = history([5.0, 2.0, NAN], size_bytes=[1.0, 3.0, NAN], memory_bytes=[NAN, 9.0, 20.0], energy_mj=[9.0] * 3)
    assert excess(trials, Limits(4.0))[:2].tolist() == [0.25, -0.5]
    assert excess(trials, Limits(4.0, max_size_bytes=2.0)).tolist()[:2] == [0.25, 0.5]
    assert excess(trials, Limits(4.0, max_memory_bytes=10.0)).tolist() == [0.25, pytest.approx(-0.1), 1.0]


def test_what_is_tried_lies_beside_what_came_nearest() -> None:
    """All neighbours of the points nearest to the target are there, and their twins, and the floor."""
    trials = history([9.0, 4.1, 8.0, 4.2, 7.0, 4.3])
    points = {point.tobytes() for point in around(np.random.default_rng(0), MOVES, trials, Limits(4.0))}
    for near in trials.levels[[1, 3, 5][:NEAREST]]:
        assert {each.tobytes() for each in MOVES.neighbours(near)} <= points
        assert {each.tobytes() for each in TABLES.canonical(twins(TABLES, near))} <= points
    assert TABLES.floor.tobytes() in points


def test_a_twin_differs_in_one_axis() -> None:
    """Beside a pruned network stand the same in float and the same in INT8."""
    (point,) = MOVES.random(np.random.default_rng(3), 1)
    found = [PROBLEM.space.candidate(TABLES.levels(twin)) for twin in twins(TABLES, point)]
    pruning = PROBLEM.space.candidate(TABLES.levels(point))[PRUNING_RATIO]
    assert [len(candidate[BITS]) for candidate in found] == [0, 5]
    assert all(candidate[PRUNING_RATIO] == pruning for candidate in found)


def test_the_floor_is_what_was_timed_to_be_the_fastest() -> None:
    """Of the networks that the profile timed the fastest is the floor; without any, what layers tell to be so."""
    strongest = [PROBLEM.space.sizes[choice.name] - 1 for choice in PROBLEM.space.choices]
    assert TABLES.floor.tolist() == strongest
    half = PROBLEM.space.at(lambda choice: int(choice.axis == PRUNING_RATIO))
    timed = ((half.to_dict(), 2.0), ({BITS: {"layer0": 8}}, 9.0))
    tables = EncodedSpace(PROBLEM.space, replace(PROFILE, timed=timed))
    assert tables.floor.tolist() == list(PROBLEM.space.levels(half).values())
