"""Times networks with all layers at one level, to learn what each level of a layer costs."""

from __future__ import annotations

import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from threading import Lock

import onnx

from ..compressors.lowrank.factorize import cost_of, ranks_of
from ..compressors.onnx_files import qdq
from ..compressors.pipeline import Compressed, apply_candidate
from ..compressors.technique import Supplies
from ..errors import InfeasibleError
from ..evaluators.device_lock import on_the_floor
from ..evaluators.ladder.served import source_of
from ..evaluators.meters.bridge import Offers
from ..evaluators.meters.latency import PROBE, Meter
from ..evaluators.meters.parallel import begun
from ..evaluators.runtime import Runtime
from ..spaces.candidate import ACTIVATION, BITS, DEPTH, RANK, RESOLUTION, SPARSITY, Candidate, Value
from ..spaces.layers import Network
from ..spaces.space import Choice, Space
from ..spaces.uniform import INTEGER
from ..studies.task import Task
from .cost_model import LAYER_AXES, CostModel, interpolated, level_factors, measured_levels, nearest
from .damage import divided
from .layer_latency import layer_costs, layer_times

KERNEL_PROFILES = 3
"""Most profiles of one model. Their median counts, because they are noisy for small layers."""

ALIKE = 0.05
"""Share of the time by which two profiles of one model may differ; then there is no third one."""

MOST_LEVELS = 2
"""Most levels of one axis that are built and timed; the levels between them are interpolated by their work."""

ROUGH = replace(PROBE, max_windows=4, min_runs=5, min_window_s=0.1, tolerance=0.05)
"""How long candidates are timed that only teach what to try first: the trials teach it better."""

PROBE_TIMEOUT_S = 600.0
"""Seconds after which the timing of one candidate is given up."""

AT_A_TIME = 2
"""Most candidates whose timing processes run; they take turns at the device."""

Probed = tuple[float | None, dict[str, float] | None]
"""Milliseconds of a network, None if it cannot be built or timed; and those that the runtime's profiler attributes to
its layers, None without a profiler."""

LayerNames = tuple[bytes, dict[str, str]]
"""A network's ONNX file, and the layer of each weight in it."""


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
        timed: the candidates timed so far, with their milliseconds.
        offers: gets each model that was timed, for a bridge; None wants none.
        working: is held by what builds, and by the runtime's profiler, which building would disturb.

    """

    task: Task
    supplies: Supplies
    network: Network
    base: Compressed
    runtime: Runtime
    meter: Meter
    timeout_s: float = PROBE_TIMEOUT_S
    timed: dict[Candidate, float] = field(default_factory=dict)
    offers: Offers | None = None
    working: AbstractContextManager[object] = field(default_factory=Lock, repr=False, compare=False)

    def base_costs(self, artefact: bytes, base_ms: float) -> CostModel:
        """Divide the milliseconds of the unchanged network among its layers."""
        return layer_costs(self.network, self.base.onnx, self._base_layers, self._node_ms(artefact), base_ms)

    def latencies_ms(self, candidates: Iterable[Candidate]) -> list[float | None]:
        """Return the latency of each candidate; None for one that cannot be built or timed."""
        candidates = list(candidates)
        new = [candidate for candidate in dict.fromkeys(candidates) if candidate not in self.timed]
        for _ in self._probed(new, layers=False):
            pass
        return [self.timed.get(candidate) for candidate in candidates]

    def uniform(self, candidates: Iterable[Candidate]) -> Iterator[Probed]:
        """Time candidates in order, each with some layers at one level, and attribute the time to the layers."""
        return self._probed(candidates, layers=True)

    def _probed(self, candidates: Iterable[Candidate], *, layers: bool) -> Iterator[Probed]:
        """Build and time candidates, in order: one is built while the process begins that times the one before."""
        waiting: deque[tuple[Candidate, bytes, Callable[[], Probed]]] = deque()
        for candidate in candidates:
            with self.working, on_the_floor():  # not while another is timed
                artefact, names = self._built(candidate)
            if len(waiting) == AT_A_TIME:
                yield self._told(*waiting.popleft())
            waiting.append((candidate, artefact, begun(partial(self._measured, artefact, names if layers else None))))
        while waiting:
            yield self._told(*waiting.popleft())

    def _built(self, candidate: Candidate) -> tuple[bytes, LayerNames]:
        """Return the runtime's file of a candidate, empty if there is none; and how to find its layers."""
        try:
            built = apply_candidate(self.task, candidate, self._roughly, epochs=0)
        except Exception:  # a user's forward may fail in any way
            return b"", (b"", {})
        try:
            return self.runtime.convert(source_of(built, self._roughly)), (built.onnx, self._layers(built))
        except InfeasibleError:
            return b"", (b"", {})

    def _measured(self, artefact: bytes, names: LayerNames | None) -> Probed:
        """Time a file, and attribute its time to the layers that have names."""
        if not artefact:
            return None, None
        try:
            total_ms = self.meter.measure(artefact, ROUGH, timeout_s=self.timeout_s).median_ms
        except InfeasibleError:
            return None, None
        if names is None:
            return total_ms, None
        layers = [layer.name for layer in self.network.layers]
        return total_ms, layer_times(layers, *names, self._node_ms(artefact))

    def _told(self, candidate: Candidate, artefact: bytes, result: Callable[[], Probed]) -> Probed:
        """Return what was measured, and keep it."""
        probed = result()
        if probed[0] is not None:
            self.timed[candidate] = probed[0]
            if self.offers is not None:
                self.offers.add(artefact, probed[0])
        return probed

    @cached_property
    def _roughly(self) -> Supplies:
        """Supplies for networks that are only timed: statistics and ranges change no latency."""
        few = divided(self.task.base, self.supplies.calibration)[:1]
        return replace(self.supplies, calibration=few, statistics=few, rough=True)

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
                with self.working:
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


def probe(axis: str, levels: Mapping[str, Value], bits: Iterable[Choice]) -> Candidate:
    """Return the network that is timed for a level of an axis.

    Activation functions are exchanged beside layers in INT8, where that is offered. There they cost more than in float,
    where a runtime may fuse the dearer ones, too.

    Args:
        axis: of the level.
        levels: of each target.
        bits: the choices of bits that can be applied.

    """
    return Candidate({BITS: assigned(bits, INTEGER) if axis == ACTIVATION else {}, axis: levels})


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
    offered = {axis: _offered(space, axis, usable, size_counts=size_counts) for axis in LAYER_AXES}
    network = prober.network
    probes = [(axis, level) for axis, choices in offered.items() for level in _to_measure(choices, costs, network)]
    levels = [assigned(offered[axis], level) for axis, level in probes]
    found: dict[str, defaultdict[str, dict[Value, float]]] = {}
    uniform_ms: dict[str, dict[str, float]] = {}
    timed = prober.uniform(probe(axis, each, offered[BITS]) for (axis, _), each in zip(probes, levels, strict=True))
    for (axis, level), chosen in zip(probes, levels, strict=True):
        notice(f"what the layers cost at {axis}={level}")
        total_ms, spent = next(timed)
        if total_ms is not None:
            uniform_ms.setdefault(axis, {})[str(level)] = total_ms
            by_layer = found.setdefault(axis, defaultdict(dict))
            beside = _in_int8(costs, found.get(BITS, {})) if axis == ACTIVATION else costs
            for name, factor in _factors(axis, chosen, beside, network, spent, total_ms).items():
                by_layer[name][chosen[name]] = factor
    factors = {
        axis: {
            choice.target: interpolated(known[choice.target], choice.levels, _work(axis, network, choice.target))
            for choice in offered[axis]
            if choice.target in known
        }
        for axis, known in found.items()
    }
    return replace(costs, factors=factors, uniform_ms=uniform_ms)


def _offered(space: Space, axis: str, usable: Collection[str], *, size_counts: bool) -> list[Choice]:
    """Return an axis's choices that can be applied, each with the levels alone that may change a latency."""
    dense = axis == SPARSITY and size_counts
    return [
        replace(
            choice,
            levels=tuple(v for v in choice.levels if v != choice.neutral and not (dense and not isinstance(v, str))),
        )
        for choice in space.on(axis)
        if choice.name in usable
    ]


def _to_measure(choices: Sequence[Choice], costs: CostModel, network: Network) -> list[Value]:
    """Return the levels of an axis that are timed; what others do to the network's latency is noise."""
    levels = measured_levels((level for choice in choices for level in choice.levels), MOST_LEVELS)
    reached = {c.target: network.reached(c.axis, c.target) for c in choices}
    return [
        level
        for level in levels
        if costs.noticeable({x for c in choices if level in c.levels for x in reached[c.target]})
    ]


def _factors(
    axis: str,
    chosen: Mapping[str, Value],
    costs: CostModel,
    network: Network,
    spent: Mapping[str, float] | None,
    total_ms: float,
) -> dict[str, float]:
    """Return the factor of each target at a level; see `level_factors`.

    What a branch's layers took is what its absence saves, more or less: all of them have one factor.
    """
    reached = {target: network.reached(axis, target) for target in chosen}
    layers = {name for names in reached.values() for name in names}
    by_layer = level_factors(costs, layers, None if axis == DEPTH else spent, total_ms)
    known = {target: [name for name in names if name in by_layer] for target, names in reached.items()}
    return {
        target: sum(by_layer[name] * costs.layer_ms[name] for name in names) / costs.spent_ms(names)
        for target, names in known.items()
        if names
    }


def _in_int8(costs: CostModel, bits: Mapping[str, Mapping[Value, float]]) -> CostModel:
    """Return the costs of a network whose layers are all in INT8, by their factors."""
    layer_ms = {name: ms * bits.get(name, {}).get(INTEGER, 1.0) for name, ms in costs.layer_ms.items()}
    return replace(costs, layer_ms=layer_ms)


def _work(axis: str, network: Network, name: str) -> Callable[[Value], float]:
    """Return the work that a level of an axis leaves of a layer, up to a factor."""
    if axis == RESOLUTION:
        return lambda level: float(level) ** 2
    if axis != RANK:
        return float
    shape, stride = next((layer.shape, layer.stride) for layer in network.layers if layer.name == name)
    return lambda level: cost_of(shape, ranks_of(shape, float(level)), stride)
