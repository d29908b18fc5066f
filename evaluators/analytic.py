"""An evaluator for tests whose costs are formulas: a whole search takes seconds, and its true front is known."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ..spaces.candidate import BITS, PRUNING_RATIO, Candidate
from ..spaces.layers import Group, Layer, Network
from ..spaces.space import Choice, Space
from .evaluator import BARE, Host, Request
from .measurement import Infeasible, Latency, Measurement, Outcome, Window

RATIOS = (0.0, 0.25, 0.5, 0.75)
ACCURACY = 0.95
BASELINE_MS = 10.0
OTHER_MS = 1.0
INTEGER_FACTOR = 0.5
OTHER_BYTES = 1000
ACTIVATIONS = 200_000
PICOJOULES = 20.0

MOST_POINTS = 100_000
"""Maximum number of points of a space that is enumerated."""


class AnalyticEvaluator:
    """Computes the costs of candidates of an imaginary chain of layers, without a clock, training or randomness.

    Each layer reads the channels of the one before it, has a group of its own, and may be INT8. With ``kept`` for the
    product of the shares of channels that stay on its two sides:

        latency  = OTHER_MS + Σ milliseconds · kept · (INTEGER_FACTOR where INT8)
        accuracy = ACCURACY − Σ damage of a group · ratio² − Σ damage of a layer where INT8
        size     = OTHER_BYTES + Σ params · kept · (1 where INT8, else 4)
        memory   = OTHER_BYTES + size + Σ ACTIVATIONS · share of a group's channels that stays
        energy   = Σ PICOJOULES · macs · kept · (INTEGER_FACTOR where INT8)

    Args:
        length: number of layers, and of groups.
        seed: of the layers' costs and damages.
        misjudged: how wrong `profile` is about damages, as the standard deviation of its logarithmic error.

    >>> evaluator = AnalyticEvaluator(2)
    >>> (measured,) = evaluator.evaluate(Request(folder="", candidate=Candidate(), epochs=0))
    >>> measured.accuracy, measured.latency.median_ms
    (0.95, 10.0)

    """

    def __init__(self, length: int, *, seed: int = 0, misjudged: float = 0.7) -> None:
        rng = random.Random(seed)
        names = [f"layer{i}" for i in range(length)]
        params = [rng.choice((5_000, 20_000, 80_000)) for _ in names]
        self.network = Network(
            layers=tuple(
                Layer(
                    name=name,
                    kind="conv2d",
                    params=count,
                    macs=count * rng.choice((16, 64, 256)),
                    in_groups=tuple(names[i - 1 : i]) if i else (),
                    out_group=name,
                )
                for i, (name, count) in enumerate(zip(names, params, strict=True))
            ),
            groups=tuple(Group(name=name, channels=64, members=(name,)) for name in names),
        )
        self.space = Space(
            (
                *(Choice(axis=PRUNING_RATIO, target=name, levels=RATIOS, neutral=0.0) for name in names),
                *(Choice(axis=BITS, target=name, levels=(32, 8), neutral=32) for name in names),
            )
        )
        self.layer_ms = _shares(names, [rng.uniform(0.5, 2.0) for _ in names], BASELINE_MS - OTHER_MS)
        self.pruning_damage = _shares(names, [rng.lognormvariate(0, 1) for _ in names], 0.4)
        self.integer_damage = _shares(names, [rng.lognormvariate(0, 1) for _ in names], 0.03)
        self._misjudgement = {choice.name: rng.lognormvariate(0, misjudged) for choice in self.space.choices}

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Return the costs by formula; a candidate that certainly costs too much is infeasible."""
        candidate = request.candidate
        latency = next(iter(request.latencies), None) or self._latency(candidate)
        if request.target_ms is not None and latency.least_ms > request.target_ms:
            reason = f"{latency.median_ms:.2f} ms is over the target of {request.target_ms:g} ms"
            return Infeasible(reason=reason, rung="latency", latency=latency, size_bytes=self._size_bytes(candidate))
        accuracy, kept = self._accuracy(candidate), self._kept(candidate)
        layers = self.network.layers
        size_bytes = self._size_bytes(candidate)
        costs = {
            "size": size_bytes,
            "memory": self._memory_bytes(candidate) if "memory" in request.also else None,
            "energy": self._energy_mj(candidate) if "energy" in request.also else None,
        }
        measured: dict[str, Any] = {
            "latency": latency,
            "size_bytes": size_bytes,
            "memory_bytes": costs["memory"],
            "energy_mj": costs["energy"],
        }
        limits = {"size": request.max_size_bytes, "memory": request.max_memory_bytes, "energy": request.max_energy_mj}
        for name, most in limits.items():
            cost = costs[name]
            if most is not None and (cost is None or cost > most):
                return Infeasible(reason=f"its {name} is over the limit", rung=name, **measured)
        measurement = Measurement(
            accuracy=accuracy,
            **measured,
            params=sum(round(layer.params * kept[layer.name]) for layer in layers),
            macs=sum(round(layer.macs * kept[layer.name]) for layer in layers),
            test_accuracy=accuracy if request.test else None,
            rung="trained" if request.test else "short",
        )
        return (measurement,)

    def everything(self, also: tuple[str, ...] = ()) -> Iterator[tuple[Candidate, Measurement]]:
        """Yield every candidate of a small space with its measurement; the true front is among them.

        Args:
            also: further costs to measure; see `Request.also`.

        Raises:
            ValueError: the space has more than `MOST_POINTS` points.
        """
        points = math.prod(self.space.sizes.values())
        if points > MOST_POINTS:
            raise ValueError(f"a space that is enumerated must have at most {MOST_POINTS} points, got {points}.")
        for levels in itertools.product(*map(range, self.space.sizes.values())):
            candidate = self.space.candidate(dict(zip(self.space.sizes, levels, strict=True)))
            outcome = self.evaluate(Request(folder="", candidate=candidate, epochs=0, also=also))
            assert not isinstance(outcome, Infeasible)
            yield candidate, outcome[0]

    def profile(self) -> dict[str, Any]:
        """Return a profile as plain data: the layer costs, the floor, and the sensitivities with an error.

        ``autocompress.profiles.profile.Profile.from_dict`` reads it.
        """
        strongest = self.space.at(lambda choice: len(choice.levels) - 1)
        damage = {
            f"{PRUNING_RATIO}:{name}": tuple(value * ratio**2 for ratio in RATIOS)
            for name, value in self.pruning_damage.items()
        }
        damage |= {f"{BITS}:{name}": (0.0, value) for name, value in self.integer_damage.items()}
        return {
            "network": asdict(self.network),
            "baseline_ms": BASELINE_MS,
            "baseline_low_ms": BASELINE_MS,
            "baseline_high_ms": BASELINE_MS,
            "costs": {
                "layer_ms": dict(self.layer_ms),
                "other_ms": OTHER_MS,
                "factors": {BITS: {name: {"8": INTEGER_FACTOR} for name in self.layer_ms}},
            },
            "damage": {
                name: tuple(value * self._misjudgement[name] for value in by_level) for name, by_level in damage.items()
            },
            "floor_ms": self._latency_ms(strongest),
        }

    def _kept(self, candidate: Candidate) -> dict[str, float]:
        """Return the share of weights that stays in each layer."""
        pruned = candidate[PRUNING_RATIO]
        return {
            layer.name: math.prod(1 - float(pruned.get(group, 0.0)) for group in (*layer.in_groups, layer.name))
            for layer in self.network.layers
        }

    def _accuracy(self, candidate: Candidate) -> float:
        pruned = sum(self.pruning_damage[name] * float(ratio) ** 2 for name, ratio in candidate[PRUNING_RATIO].items())
        return ACCURACY - pruned - sum(self.integer_damage[name] for name in candidate[BITS])

    def _size_bytes(self, candidate: Candidate) -> int:
        kept, integer = self._kept(candidate), candidate[BITS]
        layers = self.network.layers
        return OTHER_BYTES + sum(round(it.params * kept[it.name]) * (1 if it.name in integer else 4) for it in layers)

    def _memory_bytes(self, candidate: Candidate) -> int:
        pruned = candidate[PRUNING_RATIO]
        stay = sum(1 - float(pruned.get(group.name, 0.0)) for group in self.network.groups)
        return OTHER_BYTES + self._size_bytes(candidate) + round(ACTIVATIONS * stay)

    def _energy_mj(self, candidate: Candidate) -> float:
        kept, integer = self._kept(candidate), candidate[BITS]
        layers = self.network.layers
        work = (it.macs * kept[it.name] * (INTEGER_FACTOR if it.name in integer else 1.0) for it in layers)
        return 1e-9 * PICOJOULES * sum(work)

    def _latency_ms(self, candidate: Candidate) -> float:
        layers = (
            self.layer_ms[name] * kept * (INTEGER_FACTOR if name in candidate[BITS] else 1.0)
            for name, kept in self._kept(candidate).items()
        )
        return OTHER_MS + sum(layers)

    def _latency(self, candidate: Candidate) -> Latency:
        """Return three windows, a ten-thousandth apart."""
        baseline_ns = round(BASELINE_MS * 1e8)
        candidate_ns = round(self._latency_ms(candidate) * 1e8)
        return Latency(
            windows=tuple(
                Window(baseline_ns=(baseline_ns,), candidate_ns=(candidate_ns + i * candidate_ns // 10_000,))
                for i in (-1, 0, 1)
            ),
            baseline_ms=BASELINE_MS,
            runtime="analytic",
            clock="none",
        )


def _shares(names: list[str], weights: list[float], total: float) -> Mapping[str, float]:
    return {name: total * weight / sum(weights) for name, weight in zip(names, weights, strict=True)}
