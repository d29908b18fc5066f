"""Predicts a candidate's latency from the layers' costs in the baseline and the measured factor of each level.

Predictions only order candidates; reported latencies are always measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..spaces.candidate import (
    ACTIVATION,
    BITS,
    DEPTH,
    PRUNING_RATIO,
    RANK,
    RESOLUTION,
    SPARSITY,
    Candidate,
    Value,
)
from ..spaces.layers import Network
from ..spaces.space import Choice

LAYER_AXES = (RESOLUTION, DEPTH, BITS, RANK, SPARSITY, ACTIVATION)
"""Axes whose levels change the latency of layers by a factor that is measured; see `Network.reached`.

Activation functions come after bits, as they are timed beside INT8.
"""

LEAST_FACTOR = 0.05
"""Least factor of a layer: a noisy total may suggest a smaller one."""

LEAST_SHARE = 0.05
"""Share of the time that layers must take together for the network's latency to show their speed-up."""

Factors = Mapping[str, Mapping[str, float]]
"""The time of a choice's layers at a level over their time in the baseline, by its target and by level as text."""


@dataclass(frozen=True, kw_only=True)
class CostModel:
    """The latency of a candidate as a sum over layers.

    Attributes:
        layer_ms: milliseconds of each layer in the baseline.
        other_ms: milliseconds of everything else.
        factors: measured factors by axis; those of several axes are multiplied.
        uniform_ms: milliseconds of the network with all its layers at one level, by axis and by level as text.

    """

    layer_ms: Mapping[str, float]
    other_ms: float
    factors: Mapping[str, Factors] = field(default_factory=dict)
    uniform_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def total_ms(self) -> float:
        """Milliseconds of the unchanged network."""
        return sum(self.layer_ms.values()) + self.other_ms

    def spent_ms(self, layers: Iterable[str]) -> float:
        """Return the milliseconds of some layers in the baseline."""
        return sum(self.layer_ms.get(name, 0.0) for name in layers)

    def noticeable(self, layers: Iterable[str]) -> bool:
        """Return whether layers take enough of the time for the network's latency to show their speed-up."""
        return self.spent_ms(layers) >= LEAST_SHARE * self.total_ms

    def factor(self, axis: str, target: str, level: Value) -> float | None:
        """Return the time of a choice's layers at a level over their time in the baseline; None if unknown."""
        return self.factors.get(axis, {}).get(target, {}).get(str(level))

    def predict_ms(self, network: Network, candidate: Candidate) -> float:
        """Return a candidate's predicted latency in milliseconds."""
        return self.other_ms + sum(self.predict_layers_ms(network, candidate).values())

    def predict_layers_ms(self, network: Network, candidate: Candidate) -> dict[str, float]:
        """Return the predicted milliseconds of each layer of a candidate."""
        predicted = {layer.name: self.layer_ms.get(layer.name, 0.0) for layer in network.layers}
        for axis in (PRUNING_RATIO, *self.factors):
            for target, level in candidate[axis].items():
                factor = 1 - float(level) if axis == PRUNING_RATIO else self.factor(axis, target, level)
                for name in predicted.keys() & network.reached(axis, target):
                    predicted[name] *= 1.0 if factor is None else factor
        return predicted


def level_factors(
    costs: CostModel, chosen: Collection[str], spent: Mapping[str, float] | None, total_ms: float
) -> dict[str, float]:
    """Return the factor of each layer at a level: its time over its time in the baseline.

    With these factors the model predicts the measured total. Layers that a profiler does not know are left out if they
    take too little of the time together for the total to show their speed-up.

    Args:
        costs: the baseline's costs.
        chosen: the layers at that level; all others are as in the baseline.
        spent: the layers' times in a profile, in any unit; layers that it lacks share the speed-up of the total.
        total_ms: milliseconds of the whole network with these layers at that level.

    """
    before = {name: costs.layer_ms[name] for name in chosen if costs.layer_ms.get(name)}
    everything = sum(costs.layer_ms.values())
    known = {name: ms for name, ms in (spent or {}).items() if ms and costs.layer_ms.get(name)}
    factors = {}
    if known:
        share = sum(costs.layer_ms[name] for name in known) / everything
        scale = share * (total_ms - costs.other_ms) / sum(known.values())
        factors = {name: scale * known[name] / before[name] for name in before if name in known}
    if before and costs.noticeable(before):
        even = 1 - (costs.total_ms - total_ms) / sum(before.values())
        factors = {name: factors.get(name, even) for name in before}
    return {name: max(LEAST_FACTOR, factor) for name, factor in factors.items()}


def measured_levels(levels: Iterable[Value], most: int) -> tuple[Value, ...]:
    """Return the levels of an axis to measure: all, or ``most`` evenly spread ones of more numbers.

    >>> measured_levels((0.5, 0.375, 0.25, 0.125), most=3), measured_levels((8, 4), most=3)
    ((0.5, 0.25, 0.125), (8, 4))
    """
    distinct = tuple(dict.fromkeys(levels))
    numbers = sorted((level for level in distinct if not isinstance(level, str)), key=float, reverse=True)
    if len(numbers) <= most:
        return distinct
    places = np.linspace(0, len(numbers) - 1, most)
    kept = [numbers[int(place + 0.5)] for place in places]
    return (*kept, *(level for level in distinct if isinstance(level, str)))


def nearest(choice: Choice, level: Value) -> Value | None:
    """Return the level of a choice that is probed when all are at a level: the same, or for shares the nearest.

    >>> choice = Choice(axis="rank", target="fc", levels=(1.0, 0.375, 0.25), neutral=1.0)
    >>> nearest(choice, 0.25), nearest(choice, 0.75), nearest(choice, "2:4")
    (0.25, 0.375, None)
    """
    if level in choice.levels:
        return level
    shares = [each for each in choice.levels if isinstance(each, float) and each != choice.neutral]
    if not shares or not isinstance(level, float):
        return None
    return min(shares, key=lambda share: abs(share - level))


def interpolated(
    factors: Mapping[Value, float], levels: Iterable[Value], work: Callable[[Value], float] = float
) -> dict[str, float]:
    """Return factors by level as text: measured ones, and linearly interpolated ones between them.

    A share beyond all measured ones has the factor of the nearest; bits that were not measured have none.

    Args:
        factors: the measured ones, by level.
        levels: all that are wanted.
        work: of a level that is a number; time is taken to be linear in it.

    >>> interpolated({0.5: 0.6, 0.25: 0.4}, (0.5, 0.375, 0.25))
    {'0.5': 0.6, '0.375': 0.5, '0.25': 0.4}
    >>> interpolated({8: 0.6}, (8, 4))
    {'8': 0.6}
    """
    numbers = sorted((work(level), factor) for level, factor in factors.items() if not isinstance(level, str))
    places, heights = [place for place, _ in numbers], [height for _, height in numbers]
    found = {}
    for level in levels:
        if level in factors:
            found[str(level)] = factors[level]
        elif numbers and isinstance(level, float):
            found[str(level)] = float(np.interp(work(level), places, heights))
    return found
