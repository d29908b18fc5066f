"""Times networks with all layers at one level, to learn what each level of a layer costs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import onnx

from ..compressors.lowrank.factorize import cost_of, ranks_of
from ..compressors.onnx_files import qdq
from ..compressors.pipeline import Compressed, apply_candidate
from ..compressors.technique import Supplies
from ..errors import InfeasibleError
from ..evaluators.ladder.served import source_of
from ..evaluators.meters.bridge import Offers
from ..evaluators.meters.latency import PROBE, Meter
from ..evaluators.runtime import Runtime
from ..spaces.candidate import RANK, SPARSITY, Candidate, Value
from ..spaces.layers import Network
from ..spaces.space import Choice, Space
from ..studies.task import Task
from .cost_model import LAYER_AXES, CostModel, interpolated, level_factors, measured_levels, nearest
from .layer_latency import layer_costs, layer_times

KERNEL_PROFILES = 3
"""Most profiles of one model. Their median counts, because they are noisy for small layers."""

ALIKE = 0.05
"""Share of the time by which two profiles of one model may differ; then there is no third one."""

MOST_LEVELS = 2
"""Most levels of one axis that are built and timed; the levels between them are interpolated by their work."""

ROUGH = replace(PROBE, max_windows=4, min_window_s=0.15, tolerance=0.05)
"""How long candidates are timed that only teach what to try first: the trials teach it better."""

PROBE_TIMEOUT_S = 600.0
"""Seconds after which the timing of one candidate is given up."""


@dataclass(frozen=True, kw_only=True)
class Prober:
    """Builds candidates without training, and times them.

    Attributes:
        task: the network and its data.
        supplies: see `supplies_of`.
        network: the parts of the network.
        base: the unchanged network, exported.
        runtime: serves the models.
        meter: times them.
        timeout_s: seconds after which the timing of one candidate is given up.
        processes: how many choices' sensitivities are measured at a time.
        timed: the candidates timed so far, with their milliseconds.
        offers: gets each model that was timed, for a bridge; None wants none.

    """

    task: Task
    supplies: Supplies
    network: Network
    base: Compressed
    runtime: Runtime
    meter: Meter
    timeout_s: float = PROBE_TIMEOUT_S
    processes: int = 1
    timed: dict[Candidate, float] = field(default_factory=dict)
    offers: Offers | None = None

    def base_costs(self, artefact: bytes, base_ms: float) -> CostModel:
        """Divide the milliseconds of the unchanged network among its layers."""
        return layer_costs(self.network, self.base.onnx, self._base_layers, self._node_ms(artefact), base_ms)

    def latency_ms(self, candidate: Candidate) -> float | None:
        """Return the latency of a candidate; None if it cannot be built or timed."""
        return self.timed[candidate] if candidate in self.timed else self._timed(candidate)[0]

    def uniform(self, axis: str, levels: Mapping[str, Value]) -> tuple[float | None, dict[str, float] | None]:
        """Time the network with some layers at levels of one axis.

        Returns:
            Its milliseconds, None if it cannot be built or timed; and the milliseconds that the runtime's profiler
            attributes to its layers, None without a profiler.

        """
        total_ms, built, artefact = self._timed(Candidate({axis: levels}))
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
            self.timed[candidate] = self.meter.measure(artefact, ROUGH, timeout_s=self.timeout_s).median_ms
        except InfeasibleError:
            return None, None, b""
        if self.offers is not None:
            self.offers.add(artefact, self.timed[candidate])
        return self.timed[candidate], built, artefact

    def _layers(self, built: Compressed) -> dict[str, str]:
        """Return the layer of each weight; integers keep the names of the weights they were made from."""
        return {**self._base_layers, **qdq.layers_of(onnx.load_from_string(built.onnx), built.plain)}

    @cached_property
    def _base_layers(self) -> dict[str, str]:
        return qdq.layers_of(onnx.load_from_string(self.base.onnx), self.base.plain)

    def _node_ms(self, artefact: bytes) -> dict[str, float]:
        """Return the milliseconds of a model's nodes, as medians of several profiles; empty without a profiler."""
        found: list[dict[str, float]] = []
        while len(found) < KERNEL_PROFILES and not (len(found) > 1 and alike(*found[-2:])):
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
            found.append(once)
        names = dict.fromkeys(name for once in found for name in once)
        return {name: statistics.median([once[name] for once in found if name in once]) for name in names}


def alike(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Return whether two profiles of a model share out its time alike, by the milliseconds of its nodes.

    >>> alike({"a": 3.0, "b": 1.0}, {"a": 6.1, "b": 1.9}), alike({"a": 3.0, "b": 1.0}, {"a": 2.0, "b": 2.0})
    (True, False)
    """
    shares = [{name: ms / max(sum(each.values()), 1e-9) for name, ms in each.items()} for each in (one, other)]
    return sum(abs(shares[0].get(name, 0.0) - shares[1].get(name, 0.0)) for name in {*one, *other}) / 2 <= ALIKE


def assigned(choices: Iterable[Choice], level: Value) -> dict[str, Value]:
    """Return the level of each layer in the network that is probed for a level; those without one stay as they are."""
    levels = {choice.target: nearest(choice, level) for choice in choices}
    return {name: value for name, value in levels.items() if value is not None}


def measured_costs(
    prober: Prober,
    space: Space,
    costs: CostModel,
    usable: Collection[str],
    notice: Callable[[str], None],
    *,
    size_counts: bool = False,
) -> CostModel:
    """Add the costs of the layers' levels to a baseline's costs, with one build and measurement per axis and level.

    Args:
        prober: builds and times.
        space: what may vary.
        costs: the baseline's costs.
        usable: names of the choices that can be applied.
        notice: gets each line of progress.
        size_counts: whether unstructured zeros are offered for the bytes that they save. They are not timed, because
            dense kernels multiply by zeros too.

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
            if not costs.noticeable(choice.target for choice in choices if level in choice.levels):
                continue  # what it does to a latency is noise
            notice(f"what the layers cost at {axis}={level}")
            levels = assigned(choices, level)
            total_ms, spent = prober.uniform(axis, levels)
            if total_ms is not None:
                uniform_ms.setdefault(axis, {})[str(level)] = total_ms
                for name, factor in level_factors(costs, levels, spent, total_ms).items():
                    found[name][levels[name]] = factor
        between = {c.target: [level for level in c.levels if level in offered] for c in choices if c.target in found}
        if between:
            factors[axis] = {
                name: interpolated(found[name], levels, _work(axis, prober.network, name))
                for name, levels in between.items()
            }
    return replace(costs, factors=factors, uniform_ms=uniform_ms)


def _work(axis: str, network: Network, name: str) -> Callable[[Value], float]:
    """Return the work that a level of an axis leaves of a layer, up to a factor."""
    shape, stride = next((layer.shape, layer.stride) for layer in network.layers if layer.name == name)
    return (lambda level: cost_of(shape, ranks_of(shape, float(level)), stride)) if axis == RANK else float
