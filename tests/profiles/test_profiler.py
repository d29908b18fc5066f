"""What is learned of a network before the first trial, with real builds."""

from __future__ import annotations

import json
import math
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import onnx
import pytest
import torch
from scipy.stats import kendalltau

from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.evaluators.ladder.served import source_of
from autocompress.evaluators.measurement import Latency, Window
from autocompress.evaluators.meters.latency import Calibration, Plan
from autocompress.evaluators.runtime import Arrays, Kernel, Runtime, Source
from autocompress.evaluators.runtimes.fake import FakeRuntime
from autocompress.evaluators.runtimes.onnxruntime import OnnxRuntime
from autocompress.profiles.cost_model import LEAST_FACTOR, CostModel
from autocompress.profiles.latency_probes import Prober, measured_costs
from autocompress.profiles.profile import Profile
from autocompress.profiles.profiler import profile
from autocompress.profiles.sensitivity import sensitivities
from autocompress.spaces.candidate import BITS, DEPTH, PRUNING_RATIO, RANK, Candidate
from autocompress.spaces.space import Space
from autocompress.spaces.uniform import pruned, uniform
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

AXES = (PRUNING_RATIO, BITS)


pytestmark = pytest.mark.usefixtures("one_thread")


class Priced(FakeRuntime):
    """A runtime whose profiler knows a price for every product; INT8 saves convolutions two thirds, but not the head.

    Args:
        profiles: whether it has a profiler.

    """

    def __init__(self, *, profiles: bool = True) -> None:
        super().__init__()
        self.profiles = profiles

    def prices(self, artefact: bytes) -> dict[str, float]:
        """Return the milliseconds of each node that multiplies."""
        graph = onnx.load_from_string(artefact).graph
        stored = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        price = {"Conv": (3.0, 1.0), "Gemm": (1.0, 2.0)}
        return {n.name: price[n.op_type][n.input[1] in stored] for n in graph.node if n.op_type in price}

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Return the nodes that multiply."""
        prices = self.prices(artefact) if self.profiles else {}
        return [Kernel(name=name, kind="product", milliseconds=ms) for name, ms in prices.items()]


class Prices:
    """Measures by the sum of a priced runtime's nodes."""

    def __init__(self, runtime: Priced) -> None:
        self.runtime = runtime

    def calibrate(self, plan: Plan | None = None, *, timeout_s: float | None = None) -> Calibration:
        """Refuse."""
        raise NotImplementedError("a profile is given its calibration")

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Return the sum of the prices."""
        return known(sum(self.runtime.prices(artefact).values()))

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return nothing."""
        return None

    def kernels(self, artefact: bytes, *, runtime: str | None = None) -> Sequence[Kernel]:
        """Return the nodes that multiply."""
        return self.runtime.kernels(artefact, ())


class Stopwatch(Prices):
    """Measures ONNX Runtime in this process: the median CPU time of runs in turns with the baseline's."""

    def __init__(self, baseline: bytes, inputs: Arrays) -> None:
        self.inputs = inputs
        self.baseline = baseline

    def kernels(self, artefact: bytes, *, runtime: str | None = None) -> Sequence[Kernel]:
        """Return what ONNX Runtime executes."""
        return OnnxRuntime().kernels(artefact, self.inputs)

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Return the ratio to the baseline, of which a run is said to take a millisecond."""
        server = OnnxRuntime()
        with server.build(self.baseline, threads=1) as first, server.build(artefact, threads=1) as second:
            times: tuple[list[int], list[int]] = ([], [])
            for _ in range(40):
                for engine, spent in zip((first, second), times, strict=True):
                    for _ in range(3):
                        started = time.process_time_ns()
                        engine.infer(self.inputs)
                        spent.append(time.process_time_ns() - started)
        return known(statistics.median(times[1]) / statistics.median(times[0]))


def known(milliseconds: float) -> Latency:
    """Return a latency of so much, beside a baseline of one millisecond."""
    window = Window(baseline_ns=(1_000_000,), candidate_ns=(round(milliseconds * 1e6),))
    return Latency(windows=(window,) * 3, baseline_ms=1.0, runtime="test", clock="none")


def residual(width: int, size: int) -> Task:
    """Return a small residual network and images for it."""
    images = [(torch.randn(8, 1, size, size), torch.zeros(8, dtype=torch.long)) for _ in range(2)]
    return Task(ResidualNet((width, 2 * width), (1, 1)).eval(), images[0][0][:1], images, images)


def profiled(task: Task, runtime: Runtime, *, reduce: bool = True) -> tuple[Profile, Space, Prices]:
    """Return a network's profile, its whole space of pruning and bits, and what measured it."""
    supplies = supplies_of(task)
    network = inspect(task.model, task.examples)
    offered = space_of(network, runtime.capabilities)
    space = Space(tuple(c for c in offered.choices if c.axis in AXES and 4 not in c.levels))
    base = apply_candidate(task, Candidate(), supplies, epochs=0)
    artefact = runtime.convert(source_of(base, supplies))
    inputs = [x.numpy() for x in supplies.examples]
    meter = Prices(runtime) if isinstance(runtime, Priced) else Stopwatch(artefact, inputs)
    base_ms = sum(runtime.prices(artefact).values()) if isinstance(runtime, Priced) else 1.0
    calibration = Calibration(median_ms=base_ms, low_ms=base_ms, high_ms=base_ms, windows=())
    prober = Prober(task=task, supplies=supplies, network=network, base=base, runtime=runtime, meter=meter)
    with sensitivities(task.base, supplies, space, lambda text: None, network=network) as damages:
        found = profile(prober, space, artefact, calibration, damages, lambda text: None, reduce=reduce)
    return found, space, meter


def latency_ms(task: Task, candidate: Candidate, runtime: Runtime, meter: Prices) -> float:
    """Return the measured latency of a candidate."""
    supplies = supplies_of(task)
    built = apply_candidate(task, candidate, supplies, epochs=0)
    return meter.measure(runtime.convert(source_of(built, supplies)), Plan(**PLAN)).median_ms


PLAN = {"min_windows": 3, "max_windows": 3, "gap_s": 0.0, "min_runs": 1, "min_window_s": 0.0, "tolerance": 1.0}


def test_a_layer_that_gets_slower_is_not_offered() -> None:
    """Where INT8 slows one layer down by the profiler, that choice alone goes, with both of its times."""
    found, space, _ = profiled(residual(16, 8), Priced())
    (gone,) = found.dropped
    assert gone.name == "bits:head"
    assert (gone.before_ms, gone.after_ms) == pytest.approx((1.0, 2.0))
    assert set(space.sizes) - set(found.space(space).sizes) == {"bits:head"}
    assert set(found.damage) == set(found.space(space).sizes)
    assert [set(ratios) <= {c.target for c in space.on(PRUNING_RATIO)} for ratios in found.global_pruning.values()] == [
        True
    ] * 3
    assert Profile.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_all_is_offered_where_it_is_not_to_be_reduced() -> None:
    """On request nothing is dropped, and the costs are known all the same."""
    found, space, _ = profiled(residual(16, 8), Priced(), reduce=False)
    assert found.dropped == ()
    assert found.space(space) == space
    assert found.costs.factor(BITS, "head", 8) == pytest.approx(2.0)


def test_predictions_are_exact_where_latency_is_a_sum() -> None:
    """Layers of integers and of floats that the runtime prices one by one are predicted to the last digit."""
    task, runtime = residual(16, 8), Priced()
    found, space, meter = profiled(task, runtime)
    for number in range(3):
        names = [choice.target for choice in space.on(BITS)][number::2]
        candidate = Candidate({BITS: dict.fromkeys(names, 8)})
        assert found.predict_ms(candidate) == pytest.approx(latency_ms(task, candidate, runtime, meter))


def test_narrow_networks_are_timed_in_float_and_in_int8() -> None:
    """The network with half of its channels is timed in both, as are the others that were built on the way."""
    task, runtime = residual(16, 8), Priced()
    found, space, meter = profiled(task, runtime)
    timed = {Candidate(axes): milliseconds for axes, milliseconds in found.timed}
    for quantized in (False, True):
        half = uniform(found.space(space), 0.5, quantized=quantized)
        assert half[PRUNING_RATIO]
        assert timed[half] == pytest.approx(latency_ms(task, half, runtime, meter))
    assert timed[Candidate({BITS: dict.fromkeys([choice.target for choice in space.on(BITS)], 8)})] > 0
    assert min(timed.values()) == found.floor_ms
    old = {name: value for name, value in found.to_dict().items() if name != "timed"}
    assert Profile.from_dict(old).timed == ()


class Announcing(Priced):
    """A runtime that says when it has converted two candidates."""

    def __init__(self) -> None:
        super().__init__()
        self.converted, self.twice = 0, threading.Event()

    def convert(self, source: Source) -> bytes:
        """Convert it, and count it."""
        self.converted += 1
        if self.converted == 2:
            self.twice.set()
        return super().convert(source)


class Patient(Prices):
    """Measures a candidate when the next one has been converted."""

    waited = True

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Wait, and return the sum of the prices."""
        assert isinstance(self.runtime, Announcing)
        self.waited = self.runtime.twice.wait(20) and self.waited
        return super().measure(artefact, plan)


def test_a_candidate_is_built_while_the_one_before_is_timed() -> None:
    """A measurement that waits for the next candidate gets it, and the latencies come in order all the same."""
    task, runtime = residual(16, 8), Announcing()
    supplies, network = supplies_of(task), inspect(task.model, task.examples)
    space = space_of(network, runtime.capabilities)
    base = apply_candidate(task, Candidate(), supplies, epochs=0)
    meter = Patient(runtime)
    prober = Prober(task=task, supplies=supplies, network=network, base=base, runtime=runtime, meter=meter)
    choices = [choice.target for choice in space.on(BITS)]
    candidates = [Candidate({BITS: dict.fromkeys(choices[:many], 8)}) for many in (1, 2, 3)]
    found = prober.latencies_ms([*candidates, candidates[0]])
    assert meter.waited
    plain = Prices(runtime)
    assert found[:3] == pytest.approx([latency_ms(task, candidate, runtime, plain) for candidate in candidates])
    assert found[3] == found[0]
    assert len(set(found)) == 3


def test_without_a_profiler_the_whole_network_tells() -> None:
    """A runtime that does not say what layers cost gives all of them the factor of the whole network."""
    task, runtime = residual(16, 8), Priced(profiles=False)
    found, space, meter = profiled(task, runtime)
    factors = {found.costs.factor(BITS, choice.target, 8) for choice in space.on(BITS)}
    assert max(factors) == pytest.approx(min(factors))
    candidate = uniform(space, 0.0, quantized=True)
    assert found.predict_ms(candidate) == pytest.approx(latency_ms(task, candidate, runtime, meter))
    assert found.dropped == ()


def test_predictions_order_candidates_as_onnxruntime_does() -> None:
    """Candidates that mix pruning and bits are as fast in relation to each other as was predicted."""
    task, runtime = residual(48, 16), OnnxRuntime()
    found, space, meter = profiled(task, runtime)
    left = found.space(space)
    groups = [choice.target for choice in left.on(PRUNING_RATIO)]
    layers = [choice.target for choice in left.on(BITS)]
    candidates = [
        Candidate(),
        pruned(left, dict.fromkeys(groups, 0.25), quantized=False),
        pruned(left, dict.fromkeys(groups, 0.5), quantized=False),
        pruned(left, dict.fromkeys(groups, 0.75), quantized=False),
        pruned(left, dict.fromkeys(groups[:1], 0.75), quantized=False),
        Candidate({BITS: dict.fromkeys(layers, 8)}),
        Candidate({BITS: dict.fromkeys(layers[: len(layers) // 2], 8)}),
        pruned(left, dict.fromkeys(groups, 0.5), quantized=True),
    ]
    measured = [latency_ms(task, candidate, runtime, meter) for candidate in candidates]
    predicted = [found.predict_ms(candidate) for candidate in candidates]
    assert kendalltau(predicted, measured).statistic >= 0.8, list(zip(predicted, measured, strict=True))


class Weighed(Priced):
    """A runtime whose price of a product is the number of its weights, in float and in integers alike."""

    def prices(self, artefact: bytes) -> dict[str, float]:
        """Return the milliseconds of each node that multiplies."""
        graph = onnx.load_from_string(artefact).graph
        size = {each.name: math.prod(each.dims) for each in graph.initializer}
        maker = {node.output[0]: node for node in graph.node}

        def weights(name: str) -> float:
            while name not in size:
                name = maker[name].input[0]
            return 1e-3 * size[name]

        return {n.name: weights(n.input[1]) for n in graph.node if n.op_type in ("Conv", "Gemm")}


def costs_of(task: Task, runtime: Priced) -> tuple[Prober, Space, CostModel]:
    """Return the costs of a network's levels, with the space and what measured them."""
    supplies, network = supplies_of(task), inspect(task.model, task.examples)
    space = space_of(network, replace(runtime.capabilities, weight_bits=(4,)))
    base = apply_candidate(task, Candidate(), supplies, epochs=0)
    artefact = runtime.convert(source_of(base, supplies))
    meter = Prices(runtime)
    prober = Prober(task=task, supplies=supplies, network=network, base=base, runtime=runtime, meter=meter)
    costs = prober.base_costs(artefact, sum(runtime.prices(artefact).values()))
    return prober, space, measured_costs(prober, space, costs, space.sizes.keys(), lambda text: None)


def test_one_build_tells_what_each_branch_saves() -> None:
    """The network without all branches is timed, and what it saves is shared out by the time of the branches' layers.

    No layer is free, so a small share of its time is left.
    """
    task, runtime = residual(32, 8), Weighed()
    prober, space, costs = costs_of(task, runtime)
    branches = [choice.target for choice in space.on(DEPTH)]
    assert len(branches) > 1
    assert [len(candidate[DEPTH]) for candidate in prober.timed if candidate[DEPTH]] == [len(branches)]
    for name in branches:
        candidate = Candidate({DEPTH: {name: "gone"}})
        told, unchanged = costs.predict_ms(prober.network, candidate), costs.total_ms
        saved = unchanged - latency_ms(task, candidate, runtime, prober.meter)
        assert unchanged - told == pytest.approx((1 - LEAST_FACTOR) * saved, rel=0.01)


def test_two_builds_tell_all_ranks_and_none_is_made_for_what_is_too_small() -> None:
    """Ranks between two that were timed follow from their work; four bits of a small head alone are not timed."""
    task, runtime = residual(32, 8), Weighed()
    prober, space, costs = costs_of(task, runtime)
    network, meter = prober.network, prober.meter
    assert [len(candidate[RANK]) > 0 for candidate in prober.timed].count(True) == 2
    layers = {layer.name: layer for layer in network.layers}
    between = [
        (choice.target, level)
        for choice in space.on(RANK)
        for level in choice.levels[2:-1]
        if layers[choice.target].stride == 1
    ]
    assert between
    for target, level in between[:3]:
        candidate = Candidate({RANK: {target: level}})
        measured = latency_ms(task, candidate, runtime, meter)
        assert costs.predict_ms(network, candidate) == pytest.approx(measured, rel=0.01)
    assert 4 in next(choice for choice in space.on(BITS) if choice.target == "head").levels
    assert costs.factor(BITS, "head", 8) == pytest.approx(1.0, rel=0.05)
    assert costs.factor(BITS, "head", 4) is None
    assert "4" not in costs.uniform_ms[BITS]
