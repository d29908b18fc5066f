"""Leaves out levels without a speed-up: what does not pay on the target runtime is not offered.

A level of a layer pays if it was measured to make the layer faster. Pruning always pays, because it removes work.
Palettes always stay, because they change the stored weights only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from ..spaces.candidate import BITS, SPARSITY, Value
from ..spaces.layers import Network
from ..spaces.space import Space
from .cost_model import LAYER_AXES, CostModel

FOR_SIZE = (BITS, SPARSITY)
"""Axes that also save bytes; if bytes count, all their levels stay."""

PAYS = 0.98
"""A level pays if its share of the layer's time is under this; a larger share may be noise."""

SMALL = 0.01
"""Share of the baseline's time under which the measurement of a single layer is noise."""

SHOWN = 3
"""Layers that a summary names for each level."""


@dataclass(frozen=True, kw_only=True)
class DroppedLevel:
    """A level that is not offered, because it does not pay.

    Attributes:
        name: the choice's name.
        level: the value.
        before_ms: milliseconds of its layers in the baseline.
        after_ms: milliseconds of its layers at that level.

    """

    name: str
    level: Value
    before_ms: float
    after_ms: float

    @property
    def axis(self) -> str:
        """The choice's axis."""
        return self.name.partition(":")[0]

    @property
    def target(self) -> str:
        """The layer, or the branch."""
        return self.name.partition(":")[2]


def levels_without_speedup(
    space: Space, costs: CostModel, network: Network, *, size_counts: bool = False
) -> tuple[DroppedLevel, ...]:
    """Return the levels that were measured not to make their layers faster.

    A level of a layer under `SMALL` of the baseline's time is kept, unless a larger layer is no faster at that level
    and neither is the network with all its layers at it. If only settings would be left of the space, nothing is
    dropped: such a search still saves bytes.

    Args:
        space: what may vary.
        costs: the measured costs.
        network: says which layers a choice changes.
        size_counts: whether bits and zeros are kept for the bytes that they save.

    """
    least_ms, slower = SMALL * costs.total_ms, PAYS * costs.total_ms
    losing = [
        DroppedLevel(name=choice.name, level=level, before_ms=before_ms, after_ms=factor * before_ms)
        for choice in space.choices
        if choice.axis in LAYER_AXES and not (choice.axis in FOR_SIZE and size_counts)
        for level in choice.levels
        if (factor := costs.factor(choice.axis, choice.target, level)) is not None and factor >= PAYS
        if (before_ms := costs.spent_ms(network.reached(choice.axis, choice.target))) and level != choice.neutral
    ]
    surely = {
        (each.axis, str(each.level))
        for each in losing
        if each.before_ms >= least_ms and costs.uniform_ms.get(each.axis, {}).get(str(each.level), 0.0) >= slower
    }
    found = [each for each in losing if each.before_ms >= least_ms or (each.axis, str(each.level)) in surely]
    left = reduced(space, found)
    return tuple(found) if any(choice.neutral is not None for choice in left.choices) else ()


def reduced(space: Space, dropped: Collection[DroppedLevel]) -> Space:
    """Return a space without the dropped levels, without choices of one level, and without settings of absent axes."""
    gone = {(each.name, each.level) for each in dropped}
    left = [
        replace(choice, levels=tuple(level for level in choice.levels if (choice.name, level) not in gone))
        for choice in space.choices
    ]
    left = [choice for choice in left if choice.neutral is None or len(choice.levels) > 1]
    axes = {choice.axis for choice in left}
    return replace(space, choices=tuple(choice for choice in left if not choice.needs or choice.needs in axes))


def remaining(damage: Mapping[str, Sequence[float]], full: Space, left: Space) -> dict[str, tuple[float, ...]]:
    """Return the damages of the remaining levels, by the names of their choices."""
    before = {choice.name: choice for choice in full.choices}
    return {
        choice.name: tuple(damage[choice.name][before[choice.name].levels.index(level)] for level in choice.levels)
        for choice in left.choices
        if choice.name in damage
    }


def summary(dropped: Sequence[DroppedLevel], runtime: str) -> str:
    """Return one line about the dropped levels, with the layers that would lose most first; empty without any.

    >>> summary([DroppedLevel(name="bits:conv1", level=8, before_ms=0.21, after_ms=0.34)], "onnxruntime")
    'not offered, as they do not pay on onnxruntime: bits=8 of 1 layer (conv1 0.21 → 0.34 ms)'
    """
    if not dropped:
        return ""
    by_level: defaultdict[str, list[DroppedLevel]] = defaultdict(list)
    for each in dropped:
        by_level[f"{each.axis}={each.level}"].append(each)
    parts = []
    for level, group in by_level.items():
        group.sort(key=lambda each: each.before_ms - each.after_ms)
        layers = [f"{each.target} {each.before_ms:.2g} → {each.after_ms:.2g} ms" for each in group[:SHOWN]]
        more = ["…"] if len(group) > SHOWN else []
        parts.append(f"{level} of {len(group)} layer{'s' * (len(group) > 1)} ({', '.join([*layers, *more])})")
    return f"not offered, as they do not pay on {runtime}: {'; '.join(parts)}"
