"""The first trials: the baseline, the reference baselines, the least damage in float and in INT8, and grids."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping
from dataclasses import replace

from ...pareto.model import BASELINE, STUDENT
from ...profiles.profile import NARROW, Profile
from ...spaces.candidate import ACTIVATION, BITS, DEPTH, RANK, RESOLUTION, Candidate
from ...spaces.space import Choice, Space
from ...spaces.uniform import INTEGER, pruned, uniform
from ...storage.study_store import Start
from .encoding import EncodedSpace
from .knapsack import least_damage

GRID = (0.25, 0.375, 0.5, 0.625, 0.75)
"""Uniform pruning ratios; the mildest that meets the target is a reference baseline."""

EVEN = (0.25, 0.5)
"""Uniform pruning ratios that are tried with INT8 if that is offered, whatever the target."""


DESCENTS = (0.9, 0.6)
"""Shares of the target for the least predicted damage and for the greedy descents; in float only the first one."""


def warm_start(space: Space, profile: Profile, target_ms: float, *, student: bool = False) -> list[Start]:
    """Return the first candidates without repetition, the reference baselines first.

    The smallest follows what is unchanged: it meets the target most surely, and is trained in the shortest time.

    Args:
        space: what may vary.
        profile: what is known of the network.
        target_ms: the latency to reach.
        student: whether a student is compressed, so that the unchanged candidate is not the baseline.
    """
    tables = EncodedSpace(space, profile)
    pruning = uniform_pruning_that_meets(space, profile, target_ms)
    rank = uniform_rank_that_meets(space, profile, target_ms)
    unchanged, integer = uniform(space, 0.0, quantized=False), uniform(space, 0.0, quantized=True)
    smallest = uniform(space, pruning, quantized=True)
    int8 = "int8 " if integer != unchanged else ""
    starts = [
        Start(unchanged, BASELINE),
        *([Start(unchanged, STUDENT)] if student else []),
        Start(integer, "uniform int8"),
        Start(uniform(space, pruning, quantized=False), f"uniform −{pruning:.0%}"),
        Start(smallest, f"uniform int8 −{pruning:.0%}"),
    ]
    if rank is not None:
        starts.append(Start(uniform(space, 0.0, quantized=True, rank=rank), f"uniform {int8}rank {rank:.0%}"))
    for share in DESCENTS:
        levels = descend(space, profile, space.levels(paying(space, profile)), share * target_ms)
        least = least_damage(tables, levels, share * target_ms)
        starts += [Start(space.candidate(least)), Start(space.candidate(levels))]
    for other in (exchanging(space, profile), shrinking(space, profile)):
        if other is not None:
            starts.append(Start(space.candidate(descend(space, profile, other, DESCENTS[0] * target_ms))))
    shallow = shallow_enough(space, profile, DESCENTS[0] * target_ms)
    starts += [] if shallow is None else [Start(shallow)]
    in_float = None if narrow_pays(space, profile) else least_in_float(space, profile, DESCENTS[0] * target_ms)
    starts += [] if in_float is None else [Start(in_float)]
    starts += [Start(pruned(space, ratios, quantized=True)) for ratios in profile.global_pruning.values()]
    starts += [Start(uniform(space, ratio, quantized=True)) for ratio in EVEN]
    first: dict[tuple[Candidate, bool], Start] = {}
    for start in starts:
        first.setdefault((start.candidate, student and start.role == BASELINE), start)
    return sorted(first.values(), key=lambda it: (it.role not in (BASELINE, STUDENT), it.candidate != smallest))


def paying(space: Space, profile: Profile) -> Candidate:
    """Return the candidate with those layers in INT8 that are faster so in the profile."""

    def pick(choice: Choice) -> int:
        if choice.axis != BITS or INTEGER not in choice.levels:
            return 0
        factor = profile.costs.factor(BITS, choice.target, INTEGER)
        return choice.levels.index(INTEGER) if factor is None or factor < 1 else 0

    return space.at(pick)


def exchanging(space: Space, profile: Profile) -> dict[str, int] | None:
    """Return the point with what pays in INT8 and the fastest activation functions everywhere; None without any.

    Before any training a network loses much by other functions, more than it loses after it.
    """
    levels = space.levels(paying(space, profile))
    for choice in space.on(ACTIVATION):
        factors = [profile.costs.factor(ACTIVATION, choice.target, level) or 1.0 for level in choice.levels]
        levels[choice.name] = factors.index(min(factors))
    return levels if any(levels[choice.name] for choice in space.on(ACTIVATION)) else None


def shrinking(space: Space, profile: Profile) -> dict[str, int] | None:
    """Return the point with what pays in INT8 and the mildest of the smaller resolutions; None without any."""
    levels = space.levels(paying(space, profile))
    levels |= {choice.name: 1 for choice in space.on(RESOLUTION)}
    return levels if any(True for _ in space.on(RESOLUTION)) else None


def narrow_pays(space: Space, profile: Profile) -> bool:
    """Return whether narrow layers are faster in INT8 too, if the profile timed them."""
    timed = {Candidate(axes): milliseconds for axes, milliseconds in profile.timed}
    in_float, integer = (timed.get(uniform(space, NARROW, quantized=quantized)) for quantized in (False, True))
    return in_float is None or integer is None or integer < in_float


def least_in_float(space: Space, profile: Profile, target_ms: float) -> Candidate | None:
    """Return the candidate with the least damage within a latency in float; None if only bits vary.

    INT8 may save time in wide layers but not in narrow ones, which a profile of wide layers does not show.
    """
    others = replace(space, choices=tuple(c for c in space.choices if BITS not in (c.axis, c.needs)))
    if not any(choice.neutral is not None for choice in others.choices):
        return None
    levels = descend(others, profile, others.levels(others.candidate({})), target_ms)
    return others.candidate(least_damage(EncodedSpace(others, profile), levels, target_ms))


def shallow_enough(space: Space, profile: Profile, target_ms: float) -> Candidate | None:
    """Return the candidate that meets a latency by what pays in INT8 and by branches that go; None if none does.

    Where layers are small, what they wait for costs more than their work, which pruning does not show.
    """
    others = [choice.name for choice in space.choices if choice.axis != DEPTH]
    levels = descend(space, profile, space.levels(paying(space, profile)), target_ms, fixed=others)
    found = space.candidate(levels)
    return found if found[DEPTH] and profile.predict_ms(found) <= target_ms else None


def uniform_pruning_that_meets(space: Space, profile: Profile, target_ms: float) -> float:
    """Return the mildest uniform pruning ratio that is predicted to meet the target."""
    for ratio in GRID:
        if profile.predict_ms(uniform(space, ratio, quantized=False)) <= target_ms:
            return ratio
    return GRID[-1]


def uniform_rank_that_meets(space: Space, profile: Profile, target_ms: float) -> float | None:
    """Return the largest share of all ranks, with INT8, that is predicted to meet the target; None without ranks."""
    offered = {float(level) for choice in space.on(RANK) for level in choice.levels if level != choice.neutral}
    shares = sorted(offered, reverse=True)
    for share in shares:
        if profile.predict_ms(uniform(space, 0.0, quantized=True, rank=share)) <= target_ms:
            return share
    return shares[-1] if shares else None


def descend(
    space: Space, profile: Profile, start: Mapping[str, int], target_ms: float, fixed: Collection[str] = ()
) -> dict[str, int]:
    """Strengthen one choice at a time, the one that saves most milliseconds for its damage, until a target is met.

    Scores only fall as other choices get stronger, so a score that is the highest after it was computed again is the
    highest of all (Minoux, accelerated greedy, 1978). Settings stay unchanged, and so do the choices named as fixed.
    """
    levels, choices = dict(start), {choice.name: choice for choice in space.choices}
    free = (choice.name for choice in space.choices if choice.neutral is not None and choice.name not in fixed)
    scores = [(float("-inf"), name) for name in free]
    now_ms = profile.predict_ms(space.candidate(levels))
    while scores and now_ms > target_ms:
        _, name = heapq.heappop(scores)
        step = _step(space, profile, levels, choices[name], now_ms)
        if step is None:
            continue
        score, level, then_ms = step
        heapq.heappush(scores, (-score, name))
        if scores[0] == (-score, name):
            levels[name], now_ms = level, then_ms
    return levels


def _step(
    space: Space, profile: Profile, levels: Mapping[str, int], choice: Choice, now_ms: float
) -> tuple[float, int, float] | None:
    """Return a choice's next level that saves time: the milliseconds saved per damage, the level, and the latency."""
    level = levels[choice.name]
    for stronger in range(level + 1, len(choice.levels)):
        then_ms = profile.predict_ms(space.candidate({**levels, choice.name: stronger}))
        if then_ms < now_ms:
            damage = profile.damage_at(choice, stronger) - profile.damage_at(choice, level)
            score = (now_ms - then_ms) / (damage + 1e-6)
            return (score, stronger, then_ms) if score > 0 else None
    return None
