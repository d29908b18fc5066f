"""The first trials: the baseline, what anyone would try, a uniform grid, greedy descents by damage per millisecond."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from ..spaces.candidate import BITS, PRUNING_RATIO, Candidate
from ..spaces.space import Choice, Space
from .profile import Profile

BASELINE, STUDENT = "baseline", "student"
"""Roles of the unchanged model, and of the unchanged student where one is compressed in the model's stead."""

GRID = (0.25, 0.375, 0.5, 0.625, 0.75)
"""Uniform pruning ratios of the grid, each with and without INT8."""

DESCENTS = (0.95, 0.8, 0.6, 0.4)
"""Shares of the target to which the greedy descents go."""


@dataclass(frozen=True)
class Start:
    """A candidate to begin with; its role is empty where it is no baseline of the report."""

    candidate: Candidate
    role: str = ""


def warm_start(space: Space, profile: Profile, target_ms: float, *, student: bool = False) -> list[Start]:
    """Return the first candidates, without repetition, the obvious baselines first.

    Args:
        space: what may vary.
        profile: what is known of the network.
        target_ms: the latency to reach.
        student: whether a student is compressed, so that the unchanged candidate is another network than the baseline.
    """
    pruning = uniform_pruning_that_meets(space, profile, target_ms)
    unchanged = uniform(space, 0.0, quantized=False)
    starts = [
        Start(unchanged, BASELINE),
        *([Start(unchanged, STUDENT)] if student else []),
        Start(uniform(space, 0.0, quantized=True), "uniform int8"),
        Start(uniform(space, pruning, quantized=False), f"uniform −{pruning:.0%}"),
        Start(uniform(space, pruning, quantized=True), f"uniform int8 −{pruning:.0%}"),
    ]
    starts += [Start(uniform(space, ratio, quantized=True)) for ratio in GRID]
    starts += [Start(uniform(space, ratio, quantized=False)) for ratio in GRID]
    for share in DESCENTS:
        for quantized in (True, False):
            begin = space.levels(uniform(space, 0.0, quantized=quantized))
            starts.append(Start(space.candidate(descend(space, profile, begin, share * target_ms))))
    first: dict[tuple[Candidate, bool], Start] = {}
    for start in starts:
        first.setdefault((start.candidate, student and start.role == BASELINE), start)
    return list(first.values())


def uniform(space: Space, ratio: float, *, quantized: bool) -> Candidate:
    """Return the candidate that prunes every group by about the same ratio."""

    def pick(choice: Choice) -> int:
        if choice.axis == PRUNING_RATIO:
            return min(range(len(choice.levels)), key=lambda i: abs(float(choice.levels[i]) - ratio))
        return len(choice.levels) - 1 if choice.axis == BITS and quantized else 0

    return space.at(pick)


def uniform_pruning_that_meets(space: Space, profile: Profile, target_ms: float) -> float:
    """Return the mildest uniform pruning ratio that is predicted to meet the target."""
    for ratio in GRID:
        if profile.predict_ms(uniform(space, ratio, quantized=False)) <= target_ms:
            return ratio
    return GRID[-1]


def descend(space: Space, profile: Profile, start: Mapping[str, int], target_ms: float) -> dict[str, int]:
    """Strengthen one choice at a time, the one that saves most milliseconds for its damage, until a target is met.

    Scores only fall as other choices get stronger, so that a score which is the highest after it was computed anew
    is the highest of all (Minoux, accelerated greedy, 1978).
    """
    levels = dict(start)
    scores = [(float("-inf"), choice.name) for choice in space.choices if choice.neutral is not None]
    while scores and profile.predict_ms(space.candidate(levels)) > target_ms:
        _, name = heapq.heappop(scores)
        score = _score(space, profile, levels, name)
        if score <= 0:
            continue
        if scores and -score > scores[0][0]:
            heapq.heappush(scores, (-score, name))
            continue
        levels[name] += 1
        heapq.heappush(scores, (-score, name))
    return levels


def _score(space: Space, profile: Profile, levels: Mapping[str, int], name: str) -> float:
    """Return the milliseconds that a choice's next level saves, by prediction, for its damage; 0 without one."""
    if levels[name] + 1 >= space.sizes[name]:
        return 0.0
    then = {**levels, name: levels[name] + 1}
    saved = profile.predict_ms(space.candidate(levels)) - profile.predict_ms(space.candidate(then))
    alone = dict.fromkeys(levels, 0)  # what other choices damage, perhaps infinitely, does not count
    before, after = (profile.damage_of(space, {**alone, name: point[name]}) for point in (levels, then))
    return saved / (after - before + 1e-6)
