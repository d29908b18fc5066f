"""What a profile tells of many points of a space at once: latency, size, damage; arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, IntDistribution

from ...spaces.candidate import BITS, PALETTE, PRUNING_RATIO, RANK, SPARSITY, Value
from ...spaces.space import Choice, Space
from ..profile import Profile

Levels = NDArray[np.int64]
"""Shape (points, choices): for each choice, in the order of the space, the index of its level."""

Numbers = NDArray[np.float64]

FULL_BITS = 32


class Tables:
    """A space and its profile as arrays.

    Args:
        space: what may vary.
        profile: what is known of the network.

    Attributes:
        sizes: number of levels of each choice, shape (choices,).
        compressing: whether a choice compresses, or is a setting, shape (choices,).

    """

    def __init__(self, space: Space, profile: Profile) -> None:
        self.space = space
        self.profile = profile
        self.sizes = np.array([len(choice.levels) for choice in space.choices])
        self.compressing = np.array([choice.neutral is not None for choice in space.choices])
        self._columns = np.arange(len(space.choices))

    def row(self, levels: Mapping[str, int]) -> Levels:
        """Return a point of the space as one row."""
        return np.array([[int(levels.get(choice.name, 0)) for choice in self.space.choices]])

    def levels(self, row: Levels) -> dict[str, int]:
        """Return a row as a point of the space."""
        return {choice.name: int(level) for choice, level in zip(self.space.choices, row.ravel(), strict=True)}

    def live(self, levels: Levels) -> NDArray[np.bool_]:
        """Return which choices a candidate states, shape (points, choices): not the settings of an absent axis."""
        live = np.ones(levels.shape, dtype=bool)
        for about, axes in self._needs.values():
            live[:, about] = (levels[:, axes] > 0).any(axis=1, keepdims=True)
        return live

    def canonical(self, levels: Levels) -> Levels:
        """Return points with the first level of each setting that their candidates do not state."""
        return np.where(self.live(levels), levels, 0)

    def latency_ms(self, levels: Levels) -> Numbers:
        """Return what `CostModel.predict_ms` says of each point, shape (points,)."""
        total: Numbers = self.profile.costs.other_ms + self._shares(self._time, levels) @ self._layer_ms
        return total

    def time_parts(self, levels: Levels) -> Numbers:
        """Return what a latency may be a sum of, in milliseconds, shape (points, 2 · layers + 2).

        Each layer's share of its time; the root of that, as of a layer that waits for memory; what layers take that
        have other bits than the next; all that is no layer.
        """
        share, bits = self._shares(self._time, levels), self._shares(self._bits, levels)
        borders = ((bits[:, 1:] != bits[:, :-1]) * self._layer_ms[:-1]).sum(axis=1, keepdims=True)
        other = np.full((len(levels), 1), self.profile.costs.other_ms)
        return np.concatenate([share * self._layer_ms, np.sqrt(share) * self._layer_ms, borders, other], axis=1)

    def size_bytes(self, levels: Levels) -> Numbers:
        """Return the bytes of the weights that are left at each point, shape (points,)."""
        total: Numbers = self._shares(self._bytes, levels) @ self._layer_bytes
        return total

    def _shares(self, table: Numbers, levels: Levels) -> Numbers:
        """Return for each layer the product of what its choices leave of it, shape (points, layers)."""
        shares: Numbers = np.exp(table[self._columns, levels] @ self._reach)
        return shares

    @cached_property
    def damage(self) -> Numbers:
        """What each level of each choice alone damages, shape (choices, most levels); settings damage nothing.

        What is told to be infinite is ten times the largest that is not.
        """
        told = self._table(lambda choice, value: self.profile.damage_at(choice, choice.levels.index(value)))
        most = told[np.isfinite(told)].max(initial=0.0)
        return np.where(np.isfinite(told), told, 10 * most + 1)

    @cached_property
    def _needs(self) -> dict[str, tuple[list[int], list[int]]]:
        """For each axis that settings are about, the places of these and of the axis' choices."""
        choices = self.space.choices
        return {
            axis: (
                [i for i, choice in enumerate(choices) if choice.needs == axis],
                [i for i, choice in enumerate(choices) if choice.axis == axis],
            )
            for axis in {choice.needs for choice in choices if choice.needs}
        }

    @cached_property
    def _layer_ms(self) -> Numbers:
        return np.array([self.profile.costs.layer_ms.get(layer.name, 0.0) for layer in self.profile.network.layers])

    @cached_property
    def _layer_bytes(self) -> Numbers:
        return np.array([4.0 * layer.params for layer in self.profile.network.layers])

    @cached_property
    def _reach(self) -> Numbers:
        """Which layers a choice changes, shape (choices, layers): a group's are those that have its channels."""
        reach = np.zeros((len(self.space.choices), len(self.profile.network.layers)))
        for i, choice in enumerate(self.space.choices):
            for j, layer in enumerate(self.profile.network.layers):
                pruned = choice.target in (*layer.in_groups, layer.out_group)
                reach[i, j] = pruned if choice.axis == PRUNING_RATIO else choice.target == layer.name
        return reach

    @cached_property
    def _time(self) -> Numbers:
        return self._table(self._log_time)

    @cached_property
    def _bytes(self) -> Numbers:
        return self._table(_log_bytes)

    @cached_property
    def _bits(self) -> Numbers:
        return self._table(lambda choice, value: choice.levels.index(value) if choice.axis == BITS else 0.0)

    def _table(self, entry: Callable[[Choice, Value], float]) -> Numbers:
        """Return a number for each choice and level; 0 for settings, for neutral levels and beyond the last one."""
        table = np.zeros((len(self.space.choices), int(self.sizes.max(initial=1))))
        for i, choice in enumerate(self.space.choices):
            for level, value in enumerate(choice.levels):
                if choice.neutral is not None and value != choice.neutral:
                    table[i, level] = entry(choice, value)
        return table

    def _log_time(self, choice: Choice, value: Value) -> float:
        if choice.axis == PRUNING_RATIO:
            return math.log(1 - float(value))
        return math.log(self.profile.costs.factor(choice.axis, choice.target, value) or 1.0)


def _log_bytes(choice: Choice, value: Value) -> float:
    """Return the logarithm of the share of a layer's bytes that stays; patterns and unknown axes save nothing."""
    if isinstance(value, str):
        return 0.0
    if choice.axis in (PRUNING_RATIO, SPARSITY):
        return math.log(1 - value)
    if choice.axis in (BITS, PALETTE):
        return math.log(value / FULL_BITS)
    return math.log(value) if choice.axis == RANK else 0.0


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Return Optuna's description of a space: one integer a choice, the index of its level."""
    return {name: IntDistribution(0, size - 1) for name, size in space.sizes.items()}
