"""The predictions of a profile for many points of a space at once: latency, size, damage; arrays in, arrays out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...profiles.profile import Profile
from ...spaces.candidate import BITS, DEPTH, PALETTE, PRUNING_RATIO, RANK, SPARSITY, Candidate, Value
from ...spaces.space import Choice, Space

LevelArray = NDArray[np.int64]
"""Shape (points, choices): the index of each choice's level, with choices in the order of the space."""

Numbers = NDArray[np.float64]

FULL_BITS = 32

GONE = math.log(1e-6)
"""Logarithm of the share of a layer's bytes that is left where its branch is gone."""


class EncodedSpace:
    """A space and its profile as arrays.

    Args:
        space: what may vary.
        profile: what is known of the network.

    Attributes:
        sizes: number of levels of each choice, shape (choices,).
        compressing: whether a choice compresses; otherwise it is a setting, shape (choices,).

    """

    def __init__(self, space: Space, profile: Profile) -> None:
        self.space = space
        self.profile = profile
        self.sizes = np.array([len(choice.levels) for choice in space.choices])
        self.compressing = np.array([choice.neutral is not None for choice in space.choices])
        self._columns = np.arange(len(space.choices))

    def row(self, levels: Mapping[str, int]) -> LevelArray:
        """Return a point of the space as one row."""
        return np.array([[int(levels.get(choice.name, 0)) for choice in self.space.choices]])

    def levels(self, row: LevelArray) -> dict[str, int]:
        """Return a row as a point of the space."""
        return {choice.name: int(level) for choice, level in zip(self.space.choices, row.ravel(), strict=True)}

    def live(self, levels: LevelArray) -> NDArray[np.bool_]:
        """Return which choices a candidate states, shape (points, choices).

        Those mean nothing that are about parts which are gone, and settings of an absent axis.
        """
        live = self._meant(levels)
        levels = np.where(live, levels, 0)
        for about, axes in self._needs.values():
            live[:, about] = (levels[:, axes] > 0).any(axis=1, keepdims=True)
        return live

    def canonical(self, levels: LevelArray) -> LevelArray:
        """Return points without conflicts, with the first level for each setting that their candidates do not state."""
        levels = np.where(self._meant(levels), levels, 0)
        for choice, level, other, beside in self.space.clashes:
            levels[:, choice] -= (levels[:, choice] == level) & np.isin(levels[:, other], beside)
        return np.where(self.live(levels), levels, 0)

    def _meant(self, levels: LevelArray) -> NDArray[np.bool_]:
        """Return which choices mean something beside the others, shape (points, choices)."""
        meant = np.ones(levels.shape, dtype=bool)
        for choices, other, beside in self.space.moot:
            meant[:, choices] &= ~np.isin(levels[:, [other]], beside)
        return meant

    def latency_ms(self, levels: LevelArray) -> Numbers:
        """Return `CostModel.predict_ms` for each point, shape (points,)."""
        total: Numbers = self.profile.costs.other_ms + self._shares(self._time, levels) @ self.layer_ms
        return total

    def size_bytes(self, levels: LevelArray) -> Numbers:
        """Return the bytes of the remaining weights of each point, shape (points,)."""
        total: Numbers = self._shares(self._bytes, levels) @ self._layer_bytes
        return total

    def _shares(self, table: Numbers, levels: LevelArray) -> Numbers:
        """Return, for each layer, the product of the shares that its choices leave, shape (points, layers)."""
        shares: Numbers = np.exp(self.over_layers(table, levels))
        return shares

    def over_layers(self, table: Numbers, levels: LevelArray) -> Numbers:
        """Return, for each layer, the sum of a table's entries over the choices changing it, shape (points, layers)."""
        total: Numbers = table[self._columns, levels] @ self._reach
        return total

    def times(self, axis: str) -> Numbers:
        """Return a table with the logarithm of the share of a layer's time that each level of an axis leaves."""
        return np.where([[choice.axis == axis] for choice in self.space.choices], self._time, 0.0)

    @cached_property
    def probed(self) -> tuple[LevelArray, Numbers]:
        """The points that the profile timed, and their milliseconds; without points that have a removed level."""
        known = {}
        for axes, milliseconds in self.profile.timed:
            with suppress(ValueError):
                known[tuple(self.space.levels(Candidate(axes)).values())] = milliseconds
        levels = np.array(list(known), dtype=np.int64).reshape(-1, len(self.sizes))
        return self.canonical(levels), np.array(list(known.values()), dtype=np.float64)

    @cached_property
    def floor(self) -> LevelArray:
        """The point predicted to be the fastest, shape (choices,): a timed one, otherwise by the layers' costs."""
        points, milliseconds = self.probed
        if len(points):
            return np.array(points[milliseconds.argmin()])
        fastest: LevelArray = self._time.argmin(axis=1)
        return fastest

    @cached_property
    def damage(self) -> Numbers:
        """The damage of each level of each choice alone, shape (choices, most levels); settings damage nothing.

        An infinite damage becomes ten times the largest finite one.
        """
        told = self.table(lambda choice, value: self.profile.damage_at(choice, choice.levels.index(value)))
        most = told[np.isfinite(told)].max(initial=0.0)
        return np.where(np.isfinite(told), told, 10 * most + 1)

    @cached_property
    def _needs(self) -> dict[str, tuple[list[int], list[int]]]:
        """For each axis with settings, the indices of the settings and of the axis's choices."""
        choices = self.space.choices
        return {
            axis: (
                [i for i, choice in enumerate(choices) if choice.needs == axis],
                [i for i, choice in enumerate(choices) if choice.axis == axis],
            )
            for axis in {choice.needs for choice in choices if choice.needs}
        }

    @cached_property
    def layer_ms(self) -> Numbers:
        """Milliseconds of each layer of the unchanged network, shape (layers,)."""
        return np.array([self.profile.costs.layer_ms.get(layer.name, 0.0) for layer in self.profile.network.layers])

    @cached_property
    def _layer_bytes(self) -> Numbers:
        return np.array([4.0 * layer.params for layer in self.profile.network.layers])

    @cached_property
    def _reach(self) -> Numbers:
        """Which layers a choice changes, shape (choices, layers)."""
        network = self.profile.network
        reached = [set(network.reached(choice.axis, choice.target)) for choice in self.space.choices]
        return np.array([[float(layer.name in each) for layer in network.layers] for each in reached])

    @cached_property
    def _time(self) -> Numbers:
        return self.table(self._log_time)

    @cached_property
    def _bytes(self) -> Numbers:
        return self.table(_log_bytes)

    def table(self, entry: Callable[[Choice, Value], float]) -> Numbers:
        """Return a number for each choice and level; 0 for settings, for neutral levels and beyond the last level."""
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
    """Return the logarithm of the remaining share of a layer's bytes; patterns and unknown axes save nothing."""
    if choice.axis == DEPTH:
        return GONE
    if isinstance(value, str):
        return 0.0
    if choice.axis in (PRUNING_RATIO, SPARSITY):
        return math.log(1 - value)
    if choice.axis in (BITS, PALETTE):
        return math.log(value / FULL_BITS)
    return math.log(value) if choice.axis == RANK else 0.0
