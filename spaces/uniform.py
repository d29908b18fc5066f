"""Uniform candidates: every group pruned by about the same ratio, every layer in the same bits."""

from __future__ import annotations

from collections.abc import Mapping

from .candidate import BITS, PRUNING_RATIO, RANK, Candidate
from .space import Choice, Space

INTEGER = 8
"""Bits of what is called uniform INT8."""


def uniform(space: Space, ratio: float, *, quantized: bool, rank: float = 1.0) -> Candidate:
    """Return the candidate that prunes every group by about the same ratio, and factorises every layer likewise.

    Args:
        space: what may vary.
        ratio: share of each group's channels that goes.
        quantized: whether all layers that may be are in INT8.
        rank: share of each layer's rank that stays.
    """
    ratios = {choice.target: ratio for choice in space.on(PRUNING_RATIO)}
    return pruned(space, ratios, quantized=quantized, rank=rank)


def pruned(space: Space, ratios: Mapping[str, float], *, quantized: bool, rank: float = 1.0) -> Candidate:
    """Return the candidate that prunes each group by about its ratio, not at all where there is none; see `uniform`."""

    def pick(choice: Choice) -> int:
        if choice.axis == PRUNING_RATIO:
            return _nearest(choice, ratios.get(choice.target, 0.0))
        if choice.axis == RANK:
            return _nearest(choice, rank)
        return choice.levels.index(INTEGER) if choice.axis == BITS and quantized and INTEGER in choice.levels else 0

    return space.at(pick)


def _nearest(choice: Choice, value: float) -> int:
    return min(range(len(choice.levels)), key=lambda i: abs(float(choice.levels[i]) - value))
