"""Imaginary compression problems with known answers, on which searches are compared.

A chain of 20 convolutions, each with a pruning ratio and bits of its own, and four settings of distillation. Latency
has what makes real latencies hard to predict: a roofline (the slower of arithmetic and memory counts), channels padded
to what kernels like, conversions between layers of different bits, a fixed part. What a search knows beforehand is
wrong as profiles of real networks are: sensitivities by a factor of about 1.6, layer costs by 12 %.

The damage D to a network's accuracy, which is ``chance + (best − chance) · exp(−D)``, has several forms:

additive      the sum over layers, with a few interactions between neighbours
bottleneck    the root of the sum of squares: the worst layers decide
saturating    each layer has a ratio beyond which it breaks, at a place that no sensitivity tells
interacting   half of the damage is of pairs of layers, near or far
misleading    additive, but the sensitivities belong to other layers
overheads     additive, but no layer takes less than a floor of its precision, which is high where bits are few, and
              conversions are dear: a layer that was pruned is faster in float, and no profile of whole layers tells so
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Outcome, Window
from autocompress.pareto.objectives import LOSS
from autocompress.spaces.candidate import BITS, DISTILLATION, PRUNING_RATIO, Candidate
from autocompress.spaces.layers import Group, Layer, Network
from autocompress.spaces.space import Choice, Space

FAMILIES = ("additive", "bottleneck", "saturating", "interacting", "misleading", "overheads")

LAYERS, SETTINGS = 20, 4
RATIOS = tuple(i / 10 for i in range(9))
BIT_WIDTHS = (32, 16, 8, 4)
GRADES = (0.5, 0.0, 0.125, 0.25, 0.375, 0.625, 0.75, 0.875, 1.0)
"""Of a setting; the first is what anyone would begin with."""

BEST, CHANCE = 0.93, 0.10
NOISE, LATENCY_NOISE = 0.003, 0.01
"""Standard deviations of a measured accuracy, and of a measured latency relative to it."""

BASELINE_MS, TARGET_MS = 12.5, 5.0
OVERHEAD, FIXED = 0.15, 0.07
"""Shares of the arithmetic that starting kernels takes, and what is no layer."""

FLOORS, CONVERSION = (0.1, 0.3, 0.45, 0.5), 0.05
"""Of the family *overheads*: what a layer of each of the bits takes at least, and a conversion, as shares of what a
layer takes in the mean."""

SPEED = np.array([1.0, 1.7, 2.5, 2.4])
WEIGHT_BYTES = np.array(BIT_WIDTHS) / 8
TENSOR_BYTES = np.array([4.0, 2.0, 1.0, 1.0])
ALIGNMENT = np.array([8, 8, 16, 32])
BANDWIDTH = 1 / 60
INPUTS = 16

Array = NDArray[Any]


class Problem:
    """One imaginary network.

    Args:
        family: how choices damage it.
        seed: of its layers.

    """

    def __init__(self, family: str, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 777])
        self.family, self.seed = family, seed
        self.names = [f"layer{i:02d}" for i in range(LAYERS)]
        width = np.repeat([64, 128, 256, 512], LAYERS // 4) * rng.choice([0.75, 1, 1.25, 1.5], LAYERS)
        self.channels = np.maximum(16, (width / 8).round() * 8)
        self.positions = np.repeat([56, 28, 14, 7], LAYERS // 4) ** 2
        self.kernel = np.where(rng.random(LAYERS) < 0.3, 1, 9)
        self.efficiency = rng.uniform(0.45, 1.0, LAYERS)
        self.pruning = _shares(rng, 0.075)
        self.rounding = _shares(rng, 0.15)
        self.exponent = rng.uniform(1.2, 2.4, LAYERS)
        self.integer = rng.uniform(0.02, 0.08, LAYERS)
        near = [(i, i + 1) for i in range(LAYERS - 1)]
        far = [tuple(rng.choice(LAYERS, 2, replace=False)) for _ in range(LAYERS if family == "interacting" else 12)]
        self.pairs = np.array(near + far)
        self.affinity = rng.lognormal(-2.2, 0.8, len(self.pairs)) * np.where(
            rng.random(len(self.pairs)) < 0.15, -0.5, 1
        )
        self.affinity *= 4 if family == "interacting" else 1
        self.edge = rng.uniform(0.25, 0.75, LAYERS)
        self.best_settings = rng.uniform(0.2, 0.8, SETTINGS)
        self.width_settings = rng.uniform(0.25, 0.6, SETTINGS)
        self.misjudged = rng.lognormal(0, 0.5, (2, LAYERS))
        self.mistimed = rng.lognormal(0, 0.12, LAYERS)
        self.overhead = self.fixed = self.conversion = 0.0
        self.floors = np.zeros(len(BIT_WIDTHS))
        self.scale = 1.0
        zeros = np.zeros((1, 2 * LAYERS + SETTINGS), int)
        arithmetic = float(self.latency_ms(zeros)[0])
        self.overhead, self.fixed = OVERHEAD * arithmetic / LAYERS, FIXED * arithmetic
        if family == "overheads":
            self.floors, self.conversion = np.array(FLOORS) * arithmetic / LAYERS, CONVERSION * arithmetic / LAYERS
        self.scale = BASELINE_MS / float(self.latency_ms(zeros)[0])
        self.baseline_bytes = float(self.size_bytes(zeros)[0])
        self.space = Space(
            (
                *(Choice(axis=PRUNING_RATIO, target=name, levels=RATIOS, neutral=0.0) for name in self.names),
                *(Choice(axis=BITS, target=name, levels=BIT_WIDTHS, neutral=32) for name in self.names),
                *(Choice(axis=DISTILLATION, target=f"setting{i}", levels=GRADES) for i in range(SETTINGS)),
            )
        )

    # What is true, for many points at once: levels of shape (points, choices).

    def latency_ms(self, levels: Array) -> Array:
        """Return latencies in milliseconds, shape (points,)."""
        bits = levels[:, LAYERS : 2 * LAYERS]
        arithmetic, memory = self._roofline(levels)
        spent = np.maximum(arithmetic, memory) + 0.15 * np.minimum(arithmetic, memory) + self.overhead
        spent = np.maximum(spent, self.floors[bits])
        _, outputs = self._channels(levels)
        moved = outputs[:, :-1] * self.positions[:-1] * 2.0 / BANDWIDTH + self.conversion
        converted = (bits[:, 1:] != bits[:, :-1]) * moved
        total: Array = (spent.sum(1) + converted.sum(1) + self.fixed) * self.scale
        return total

    def size_bytes(self, levels: Array) -> Array:
        """Return sizes in bytes, shape (points,)."""
        inputs, outputs = self._channels(levels)
        weights = self.kernel * inputs * outputs * WEIGHT_BYTES[levels[:, LAYERS : 2 * LAYERS]]
        total: Array = (weights + 4 * outputs).sum(1)
        return total

    def accuracy(self, levels: Array) -> Array:
        """Return accuracies without noise, shape (points,)."""
        accuracies: Array = CHANCE + (BEST - CHANCE) * np.exp(-self._damage(levels))
        return accuracies

    def box(self, levels: Array, target_ms: float) -> Array:
        """Return what is true of points as `front_hypervolume` counts it, 0 the ideal and 1 nothing, (points, 3)."""
        unchanged = float(self.accuracy(np.zeros((1, 2 * LAYERS + SETTINGS), int))[0])
        drop = (unchanged - self.accuracy(levels)) / (LOSS * unchanged)
        costs = self.latency_ms(levels) / target_ms, self.size_bytes(levels) / self.baseline_bytes
        points: Array = np.maximum(np.stack([drop, *costs], axis=1), 0.0)
        return points

    def _damage(self, levels: Array) -> Array:
        ratio, bits = np.array(RATIOS)[levels[:, :LAYERS]], levels[:, LAYERS : 2 * LAYERS]
        pruned = self.pruning * (ratio / (1 - ratio)) ** self.exponent
        if self.family == "saturating":
            broken = 3.0 / (1 + np.exp(-(ratio - self.edge) / 0.05)) * (ratio > 0)
            pruned = self.pruning * (0.3 * ratio / (1 - ratio) + broken)
        grades = np.stack([np.zeros(LAYERS), np.full(LAYERS, 0.005), self.integer, np.ones(LAYERS)])
        rounded = self.rounding * grades[bits, np.arange(LAYERS)]
        each = pruned + rounded + 0.5 * np.sqrt(pruned * rounded)
        if self.family == "bottleneck":
            total = 2.2 * np.sqrt((each**2).sum(1))
        else:
            i, j = self.pairs.T
            alone = 0.5 if self.family == "interacting" else 1.0
            total = alone * each.sum(1) + (self.affinity * np.sqrt(each[:, i] * each[:, j])).sum(1)
        total = np.maximum(total, 0)
        best = np.broadcast_to(self.best_settings, (len(levels), SETTINGS)).copy()
        best[:, 2] = np.clip(best[:, 2] - 0.2 + 0.4 * np.tanh(8 * total), 0, 1)
        settings = np.array(GRADES)[levels[:, 2 * LAYERS :]]
        quality = np.exp(-(((settings - best) / self.width_settings) ** 2).sum(1))
        damage: Array = np.maximum(total * (1 - 0.5 * quality) - 0.008 * quality, -0.01)
        return damage

    def _channels(self, levels: Array) -> tuple[Array, Array]:
        outputs = np.round(self.channels * (1 - np.array(RATIOS)[levels[:, :LAYERS]]))
        inputs = np.concatenate([np.full((len(levels), 1), float(INPUTS)), outputs[:, :-1]], axis=1)
        return inputs, outputs

    def _roofline(self, levels: Array) -> tuple[Array, Array]:
        inputs, outputs = self._channels(levels)
        bits = levels[:, LAYERS : 2 * LAYERS]
        step = ALIGNMENT[bits]
        padded = np.ceil(inputs / step) * step * np.ceil(outputs / step) * step
        operations = 2.0 * self.kernel * padded * self.positions
        moved = self.kernel * inputs * outputs * WEIGHT_BYTES[bits]
        moved = moved + (inputs + outputs) * self.positions * TENSOR_BYTES[bits]
        return operations / (SPEED[bits] * self.efficiency), moved / BANDWIDTH

    # What a search sees.

    def levels(self, candidate: Candidate) -> Array:
        """Return a candidate as one row of levels."""
        return np.array([list(self.space.levels(candidate).values())])

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Return a noisy measurement; the same candidate has the same noise. Too slow a candidate ends when timed."""
        levels = self.levels(request.candidate)
        digest = hashlib.blake2b(levels.tobytes(), digest_size=8).digest()
        rng = np.random.default_rng([self.seed, int.from_bytes(digest, "little")])
        noise = rng.standard_normal(2)
        latency = _latency(float(self.latency_ms(levels)[0]) * (1 + LATENCY_NOISE * noise[0]))
        if request.target_ms is not None and latency.least_ms > request.target_ms:
            reason = f"{latency.median_ms:.2f} ms is over the target of {request.target_ms:g} ms"
            return Infeasible(reason=reason, rung="latency", latency=latency)
        accuracy = float(self.accuracy(levels)[0]) + NOISE * noise[1]
        size = round(float(self.size_bytes(levels)[0]))
        return (Measurement(accuracy=accuracy, latency=latency, size_bytes=size, params=size // 4, macs=0),)

    def profile(self) -> Mapping[str, Any]:
        """Return as plain data what a search knows beforehand: a `Profile` reads it."""
        ratio = np.array(RATIOS)
        pruning, rounding = self.pruning * self.misjudged[0], self.rounding * self.misjudged[1]
        if self.family == "misleading":
            rng = np.random.default_rng([self.seed, 778])
            pruning, rounding = rng.permutation(pruning), rng.permutation(rounding)
        damage = {
            f"{PRUNING_RATIO}:{name}": tuple(map(float, pruning[i] * (ratio / (1 - ratio)) ** 1.6))
            for i, name in enumerate(self.names)
        }
        grades = np.array([0, 0.005, 0.05, 1.0])
        damage |= {f"{BITS}:{name}": tuple(map(float, rounding[i] * grades)) for i, name in enumerate(self.names)}
        return {
            "network": asdict(self._network()),
            "baseline_ms": BASELINE_MS,
            "baseline_low_ms": BASELINE_MS,
            "baseline_high_ms": BASELINE_MS,
            "costs": self._costs(),
            "damage": damage,
            "floor_ms": None,
        }

    def _network(self) -> Network:
        inputs = [INPUTS, *self.channels[:-1]]
        params = self.kernel * inputs * self.channels
        return Network(
            layers=tuple(
                Layer(
                    name=name,
                    kind="conv2d",
                    params=int(params[i]),
                    macs=int(params[i] * self.positions[i]),
                    in_groups=(self.names[i - 1],) if i else (),
                    out_group=name,
                )
                for i, name in enumerate(self.names)
            ),
            groups=tuple(
                Group(name=name, channels=int(self.channels[i]), members=(name,)) for i, name in enumerate(self.names)
            ),
        )

    def _costs(self) -> dict[str, Any]:
        """Return what each layer costs in the baseline, and at each of the bits with everything at these bits."""

        def layers_ms(bits: int) -> Array:
            levels = np.zeros((1, 2 * LAYERS + SETTINGS), int)
            levels[:, LAYERS : 2 * LAYERS] = bits
            spent = np.maximum(np.maximum(*self._roofline(levels))[0] + self.overhead, self.floors[bits])
            milliseconds: Array = spent * self.scale
            return milliseconds

        before = layers_ms(0)
        factors = {
            name: {str(BIT_WIDTHS[bits]): float(layers_ms(bits)[i] / before[i]) for bits in range(1, len(BIT_WIDTHS))}
            for i, name in enumerate(self.names)
        }
        told = before * self.mistimed
        return {
            "layer_ms": {name: float(told[i]) for i, name in enumerate(self.names)},
            "other_ms": BASELINE_MS - float(before.sum()),
            "factors": {BITS: factors},
        }


def _shares(rng: np.random.Generator, total: float) -> Array:
    weights = rng.lognormal(0, 1, LAYERS)
    shares: Array = total * weights / weights.sum()
    return shares


def _latency(milliseconds: float) -> Latency:
    """Return three windows, five ten-thousandths apart."""
    baseline_ns, candidate_ns = round(BASELINE_MS * 1e8), round(milliseconds * 1e8)
    windows = tuple(
        Window(baseline_ns=(baseline_ns,), candidate_ns=(candidate_ns + i * candidate_ns // 2_000,)) for i in (-1, 0, 1)
    )
    return Latency(windows=windows, baseline_ms=BASELINE_MS, runtime="imaginary", clock="none")
