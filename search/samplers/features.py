"""Features of many points of a space at once, on which the costs of candidates may depend."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ...profiles.cost_model import LAYER_AXES
from ...spaces.candidate import BITS, PRUNING_RATIO
from .encoding import EncodedSpace, LevelArray, Numbers

WORK, ROOT, WHOLE, COUNT = 0.3, 0.3, 0.3, 0.5
"""Prior standard deviations of the latency that a kind of layers adds: by its remaining work, by the root of that work
(waiting for memory), by its work before pruning, and by its number of layers.
"""

OWN, BORDERS, OTHER, FIXED = 0.3, 0.2, 0.5, 0.1
"""The same for each layer's own work and its root; for layers with other bits than the next layer; for everything
outside the layers; and for what never changes, as a share of the unchanged network.
"""

LEAST = 1e-6
"""Least remaining share, so that its logarithm exists."""


class Features:
    """Describes points by the profile of each layer.

    Layers are of several kinds, which overlap: all of them; those with a number of bits; those that an axis other than
    bits changes, such as ranks; and these with a number of bits. The cost of a kind is not known beforehand.

    Args:
        tables: the space and its profile.

    """

    def __init__(self, tables: EncodedSpace) -> None:
        self.tables = tables
        self.layer_ms, self.other_ms = tables.layer_ms, tables.profile.costs.other_ms
        self.total_ms = max(float(self.layer_ms.sum()) + self.other_ms, 1e-9)
        self.bytes = max(float(tables.size_bytes(np.zeros((1, len(tables.sizes)), dtype=np.int64))[0]), 1.0)
        macs = np.array([float(layer.macs) for layer in tables.profile.network.layers])
        self.macs = macs / max(float(macs.sum()), 1.0)
        axes = {choice.axis for choice in tables.space.choices}
        self.others = [axis for axis in LAYER_AXES if axis in axes and axis != BITS]
        self.bits = sorted({float(v) for c in tables.space.on(BITS) for v in c.levels if v != c.neutral})
        self._times = {axis: tables.times(axis) for axis in (PRUNING_RATIO, BITS, *self.others)}
        self._width = tables.table(lambda choice, value: float(value) if choice.axis == BITS else 0.0)
        self._used = [_used(tables, axis) for axis in self.others]

    def __call__(self, levels: LevelArray) -> Points:
        """Describe points, shape (points, choices)."""
        over_layers = self.tables.over_layers
        shares = {axis: np.exp(over_layers(times, levels)) for axis, times in self._times.items()}
        used = [over_layers(table, levels) > 0 for table in self._used]
        return Points(self, levels, shares, over_layers(self._width, levels), used)

    @cached_property
    def prior(self) -> tuple[Numbers, Numbers]:
        """Mean and standard deviation of the weights of `Points.parts`, shape (parts,), from the profile."""
        kinds = 1 + len(self.bits) + len(self.others) * (1 + len(self.bits))
        spread = np.repeat([WORK, ROOT, WHOLE, COUNT], kinds)
        spread[3 * kinds] = FIXED  # all layers are always as many
        spread = np.concatenate([spread, [COUNT, BORDERS, OTHER], np.full(2 * len(self.layer_ms), OWN)])
        mean = np.zeros(len(spread))
        mean[[0, 4 * kinds + 2]] = 1.0
        return mean, spread


@dataclass(frozen=True)
class Points:
    """Some points of a space.

    Attributes:
        features: computes the description.
        levels: shape (points, choices).
        shares: by axis, the share of each layer's time that it leaves, shape (points, layers).
        width: bits of each layer, 0 for the default ones, shape (points, layers).
        used: for each other axis, whether it changes a layer, shape (points, layers).

    """

    features: Features
    levels: LevelArray
    shares: dict[str, Numbers]
    width: Numbers
    used: list[NDArray[np.bool_]]

    @cached_property
    def parts(self) -> Numbers:
        """The parts that a latency may be a sum of, in milliseconds, shape (points, parts); see `Features.prior`."""
        own = self.features.layer_ms
        work, root, whole = self._share * own, np.sqrt(self._share) * own, self.shares[BITS] * own
        one = np.full(work.shape, self.features.total_ms / max(len(own), 1))
        kinds = np.stack([self._all, *self._kinds, *self._pairs])
        by_kind = [(kinds * each).sum(axis=2).T for each in (work, root, whole, one)]
        borders = np.stack([self._borders.sum(axis=1) * one[:, 0], (self._borders * own[:-1]).sum(axis=1)], axis=1)
        other = np.full((len(self.levels), 1), self.features.other_ms)
        return np.concatenate([*by_kind, borders, other, work, root], axis=1)

    @cached_property
    def spent(self) -> Numbers:
        """One, and the logarithm of the profile's predicted latency, shape (points, 2)."""
        told = self.features.other_ms + self._share @ self.features.layer_ms
        return np.stack([np.ones(len(told)), np.log(np.maximum(told, LEAST * self.features.total_ms))], axis=1)

    @cached_property
    def drawn(self) -> Numbers:
        """The same, and the logarithm of the share of multiply-accumulates, shape (points, 3); fewer bits use less."""
        left = self._share @ self.features.macs
        return np.concatenate([self.spent, np.log(np.maximum(left, LEAST))[:, None]], axis=1)

    @cached_property
    def stored(self) -> Numbers:
        """One, the share of all bytes, its logarithm, and the mean share of channels, shape (points, 4)."""
        left = self.features.tables.size_bytes(self.levels) / self.features.bytes
        channels = self.shares[PRUNING_RATIO].mean(axis=1)
        return np.stack([np.ones(len(left)), left, np.log(np.maximum(left, LEAST)), channels], axis=1)

    @cached_property
    def places(self) -> Numbers:
        """Positions of points, shape (points, dimensions); similar points are near each other.

        Logarithms of the work that pruning leaves and that everything leaves; twice the shares of the network's time in
        layers of each kind, and twice the share of borders.
        """
        weights = self.features.layer_ms / max(float(self.features.layer_ms.sum()), 1e-9)
        left = np.stack([self.shares[PRUNING_RATIO] @ weights, self._share @ weights], axis=1)
        kinds = [(kind @ weights)[:, None] for kind in self._kinds]
        borders = self._borders.sum(axis=1, keepdims=True) / max(len(weights) - 1, 1)
        return np.concatenate([np.log(np.maximum(left, LEAST)), *(2 * each for each in kinds), 2 * borders], axis=1)

    @cached_property
    def _share(self) -> Numbers:
        """The remaining share of each layer's time, shape (points, layers)."""
        share: Numbers = np.prod(list(self.shares.values()), axis=0)
        return share

    @cached_property
    def _all(self) -> NDArray[np.bool_]:
        return np.ones(self.width.shape, dtype=bool)

    @cached_property
    def _kinds(self) -> list[NDArray[np.bool_]]:
        """Which layers belong to each kind except the kind of all layers, shape (points, layers)."""
        return [*(self.width == bits for bits in self.features.bits), *self.used]

    @cached_property
    def _pairs(self) -> list[NDArray[np.bool_]]:
        """Which layers belong to two kinds at once, shape (points, layers)."""
        return [(self.width == bits) & used for bits in self.features.bits for used in self.used]

    @cached_property
    def _borders(self) -> NDArray[np.bool_]:
        """Whether each layer has other bits than the next, shape (points, layers − 1)."""
        different: NDArray[np.bool_] = self.width[:, 1:] != self.width[:, :-1]
        return different


def _used(tables: EncodedSpace, axis: str) -> Numbers:
    """Return, as a table, whether a choice belongs to an axis."""
    return tables.table(lambda choice, _: float(choice.axis == axis))
