"""Tries things on a network before the first trial: what a level costs in every layer, what a choice damages."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx
import torch
from torch import Tensor, nn

from ..compressors.batch_norm import estimate_batch_norm
from ..compressors.onnx_files import qdq
from ..compressors.pipeline import TECHNIQUES, Compressed, apply_candidate
from ..compressors.technique import Supplies
from ..errors import InfeasibleError
from ..evaluators.ladder.served import source_of
from ..evaluators.meters.latency import PROBE, Meter
from ..evaluators.runtimes import Runtime
from ..spaces.candidate import SPARSITY, Candidate, Value
from ..spaces.layers import Network
from ..spaces.space import Choice, Space
from ..studies.networks.copied import copied
from ..studies.task import Task
from .cost_model import LAYER_AXES, CostModel, interpolated, layer_costs, layer_times, level_factors, measured_levels
from .saliency import saliencies, saliency_of, stand_in

PROFILES = 3
"""Profiles of one model, of which the median counts: they are noisy for small layers."""

MOST_LEVELS = 3
"""Levels of one axis that are built and timed; those between are interpolated."""

PROBE_BATCHES = 2
PROBE_TIMEOUT_S = 600.0

DAMAGES_BUDGET_S = 60.0
"""Seconds after which no more choices are applied to see what they damage."""

Notice = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Prober:
    """Builds candidates without training, and times them.

    Attributes:
        task: the network and its data.
        supplies: see `supplies_of`.
        network: the parts of the network.
        base: the network with nothing done to it, exported.
        runtime: serves the models.
        meter: times them.
        timeout_s: seconds after which the timing of one is given up.
        timed: the candidates that were timed whole, and their milliseconds.

    """

    task: Task
    supplies: Supplies
    network: Network
    base: Compressed
    runtime: Runtime
    meter: Meter
    timeout_s: float = PROBE_TIMEOUT_S
    timed: dict[Candidate, float] = field(default_factory=dict)

    def base_costs(self, artefact: bytes, base_ms: float) -> CostModel:
        """Share the milliseconds of the unchanged network, in the runtime's own file, among its layers."""
        return layer_costs(self.network, self.base.onnx, self._base_layers, self._node_ms(artefact), base_ms)

    def latency_ms(self, candidate: Candidate) -> float | None:
        """Return the latency of a candidate; None where it cannot be built or timed."""
        return self._timed(candidate)[0]

    def uniform(self, axis: str, level: Value, names: Collection[str]) -> tuple[float | None, dict[str, float] | None]:
        """Time the network with some layers at one level.

        Returns:
            Its milliseconds, None where it cannot be built or timed; and those of its layers in the profiler's word,
            None where it has none.

        """
        total_ms, built, artefact = self._timed(Candidate({axis: dict.fromkeys(names, level)}))
        if built is None or total_ms is None:
            return None, None
        layers = [layer.name for layer in self.network.layers]
        return total_ms, layer_times(layers, built.onnx, self._layers(built), self._node_ms(artefact))

    def _timed(self, candidate: Candidate) -> tuple[float | None, Compressed | None, bytes]:
        try:
            built = apply_candidate(self.task, candidate, self.supplies, epochs=0)
        except Exception:  # a user's forward may fail in any way
            return None, None, b""
        try:
            artefact = self.runtime.convert(source_of(built, self.supplies))
            self.timed[candidate] = self.meter.measure(artefact, PROBE, timeout_s=self.timeout_s).median_ms
        except InfeasibleError:
            return None, None, b""
        return self.timed[candidate], built, artefact

    def _layers(self, built: Compressed) -> dict[str, str]:
        """Return for each weight its layer; integers have the names of the weights they were made of."""
        return {**self._base_layers, **qdq.layers_of(onnx.load_from_string(built.onnx), built.plain)}

    @cached_property
    def _base_layers(self) -> dict[str, str]:
        return qdq.layers_of(onnx.load_from_string(self.base.onnx), self.base.plain)

    def _node_ms(self, artefact: bytes) -> dict[str, float]:
        """Return the milliseconds of a model's nodes: medians of several profiles; empty where there is no profiler."""
        found: defaultdict[str, list[float]] = defaultdict(list)
        for _ in range(PROFILES):
            try:
                kernels = self.meter.kernels(artefact)
            except InfeasibleError:
                return {}
            once: defaultdict[str, float] = defaultdict(float)
            for kernel in kernels:
                if kernel.milliseconds is not None:
                    once[kernel.name] += kernel.milliseconds
            if not once:
                return {}
            for name, milliseconds in once.items():
                found[name].append(milliseconds)
        return {name: statistics.median(times) for name, times in found.items()}


def measured_costs(
    prober: Prober,
    space: Space,
    costs: CostModel,
    usable: Collection[str],
    notice: Notice,
    *,
    size_counts: bool = False,
) -> CostModel:
    """Return a baseline's costs with what the levels of layers cost: one build and measurement an axis and level.

    Args:
        prober: builds and times.
        space: what may vary.
        costs: the baseline's.
        usable: names of the choices that can be applied.
        notice: is told what is being done.
        size_counts: whether zeros here and there are offered for the bytes that they save; they are taken to cost what
            the layer does, since dense kernels multiply by them too.

    """
    factors: dict[str, dict[str, dict[str, float]]] = {}
    uniform_ms: dict[str, dict[str, float]] = {}
    for axis in LAYER_AXES:
        choices = [choice for choice in space.on(axis) if choice.name in usable]
        offered = [level for choice in choices for level in choice.levels if level != choice.neutral]
        if axis == SPARSITY and size_counts:
            offered = [level for level in offered if isinstance(level, str)]
        found: defaultdict[str, dict[Value, float]] = defaultdict(dict)
        for level in measured_levels(offered, MOST_LEVELS):
            notice(f"what the layers cost at {axis}={level}")
            names = [choice.target for choice in choices if level in choice.levels]
            total_ms, spent = prober.uniform(axis, level, names)
            if total_ms is not None:
                uniform_ms.setdefault(axis, {})[str(level)] = total_ms
                for name, factor in level_factors(costs, names, spent, total_ms).items():
                    found[name][level] = factor
        between = {c.target: [level for level in c.levels if level in offered] for c in choices if c.target in found}
        if between:
            factors[axis] = {name: interpolated(found[name], levels) for name, levels in between.items()}
    return replace(costs, factors=factors, uniform_ms=uniform_ms)


def measure_sensitivities(
    model: nn.Module,
    supplies: Supplies,
    space: Space,
    notice: Notice,
    *,
    network: Network | None = None,
    budget_s: float = DAMAGES_BUDGET_S,
) -> dict[str, tuple[float, ...]]:
    """Return for each compressing choice how far each of its levels alone moves the outputs.

    The middle levels of all choices are tried first, then a stronger one of each; `curve` tells of the others. A
    choice that cannot be applied has infinite damage. Those for which there is no time left, the last ones by their
    multiply-accumulates, are taken to do as much as their gradients tell beside those of their axis: see `stand_in`.

    Args:
        model: the network; it is not changed.
        supplies: its first batches are compared.
        space: what may vary.
        notice: is told what is being done.
        network: its parts, which tell what is tried first and what the gradients are of.
        budget_s: seconds after which no choice is begun; one of each axis is tried in any case.

    """
    batches = supplies.calibration[:PROBE_BATCHES]
    few = replace(supplies, calibration=batches)
    model = copied(model).eval()
    before = _outputs(model, batches)
    end = time.monotonic() + budget_s
    by_axis = _by_axis(space, network)
    in_turn = [choice for row in itertools.zip_longest(*by_axis) for choice in row if choice is not None]
    rounds = [(choice, middle(choice)) for choice in in_turn]
    rounds += [(choice, stronger(choice)) for choice in in_turn if stronger(choice) > middle(choice)]
    found: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for number, (choice, level) in enumerate(rounds):
        if number >= len(by_axis) and time.monotonic() > end:
            notice(f"what each choice damages: {number} of {len(rounds)} were tried, the others follow from these")
            break
        notice(f"what each choice damages ({number + 1} of {len(rounds)})")
        try:
            change = _change(_apply_one(model, choice, level, few), batches, before)
        except Exception:  # a user's forward may fail in any way
            change = float("inf")
        found[choice.name][level] = change if change == change else float("inf")
    if len(found) < len(in_turn):
        salient = _salient(model, batches, network)
        for choices in by_axis:
            tried = [(salient(c), found[c.name][middle(c)]) for c in choices if c.name in found]
            for choice in choices:
                found.setdefault(choice.name, {middle(choice): stand_in(tried, salient(choice))})
    return {choice.name: curve(found[choice.name], len(choice.levels)) for row in by_axis for choice in row}


def middle(choice: Choice) -> int:
    """Return the level at which a choice is tried first; at least 1."""
    return max(1, (len(choice.levels) - 1) // 2)


def stronger(choice: Choice) -> int:
    """Return the level at which a choice is tried second, where that is not its middle."""
    return max(1, (3 * len(choice.levels) - 3) // 4)


def curve(known: Mapping[int, float], levels: int) -> tuple[float, ...]:
    """Return the damage at every level by a power law through those that are known; the square where it is one alone.

    The mildest level changes nothing, and none changes less than a milder one. The power is held between 1 and 6.

    >>> curve({1: 0.5}, 3), curve({1: 0.5, 2: 4.0}, 4)
    ((0.0, 0.5, 2.0), (0.0, 0.5, 4.0, 13.5))
    """
    first, last = min(known), max(known)
    power = 2.0
    if first < last and 0 < known[first] <= known[last] < float("inf"):
        power = min(max(1.0, math.log(known[last] / known[first]) / math.log(last / first)), 6.0)
    anchors = [last if level >= last else first for level in range(1, levels)]
    law = (known[anchor] * (level / anchor) ** power for level, anchor in enumerate(anchors, start=1))
    return (0.0, *itertools.accumulate(law, max))


def _by_axis(space: Space, network: Network | None) -> list[list[Choice]]:
    """Return the compressing choices of each axis, those first that are about most multiply-accumulates."""
    macs = {} if network is None else {layer.name: layer.macs for layer in network.layers}
    axes: defaultdict[str, list[Choice]] = defaultdict(list)
    for choice in space.choices:
        if choice.neutral is not None:
            axes[choice.axis].append(choice)
    return [sorted(choices, key=lambda choice: -macs.get(choice.target, 0)) for choices in axes.values()]


def _salient(
    model: nn.Module, batches: Sequence[tuple[Tensor, ...]], network: Network | None
) -> Callable[[Choice], float]:
    """Return what tells the saliency of a choice: 0 where that cannot be known."""
    if network is None:
        return lambda choice: 0.0
    try:
        by_layer = saliencies(model, batches)
    except Exception:  # a user's forward may fail in any way, and need not have gradients
        by_layer = {}
    return lambda choice: saliency_of(choice, by_layer, network)


def _apply_one(model: nn.Module, choice: Choice, level: int, supplies: Supplies) -> nn.Module:
    """Return the network with one choice at a level."""
    candidate = Candidate({choice.axis: {choice.target: choice.levels[level]}})
    for technique in TECHNIQUES:
        if technique.axis == choice.axis:
            model = technique.apply(model, candidate, supplies)
    estimate_batch_norm(model, supplies.calibration)
    return model


def _change(model: nn.Module, batches: Sequence[tuple[Tensor, ...]], before: Tensor) -> float:
    """Return the mean squared change of a network's outputs over their variance before."""
    return float((_outputs(model, batches) - before).square().mean() / before.var().clamp_min(1e-12))


def _outputs(model: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(*inputs) for inputs in batches])
