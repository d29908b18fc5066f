"""The outcome of one candidate: its `Measurements`, or `Infeasible` with a reason; `outcome_json` writes it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .environment import UNPAUSED, worst
from .student import student

MEDIAN = 50.0
"""The default percentile."""

CONTENDED = 1.1
"""Contention above which other programs disturbed a window: a tenth more wall time, or more demand for the cores."""


def placement(median_ms: float) -> float:
    """Return the variation of ratios from process to process, as a 95 % half-width relative to them.

    The memory layout and the contention for the caches are the same in all windows of a process, and matter more to
    models that fit into the caches. ``bench/latency_noise.py`` measures it: 3 % above 5 milliseconds, 12 % below 2.5.

    >>> [round(placement(median_ms), 3) for median_ms in (10.0, 4.0, 1.0)]
    [0.03, 0.066, 0.12]
    """
    return 0.03 + 0.09 * min(max(0.0, (5.0 - median_ms) / 2.5), 1.0)


def quantile(values: Sequence[float], percentile: float) -> float:
    """Return a percentile of values, interpolated linearly between neighbours.

    >>> quantile([1, 2, 3, 4], 50), quantile([1, 2, 3, 4], 100)
    (2.5, 4.0)
    """
    return float(values[0] if len(values) == 1 else np.percentile(values, percentile))


def half_width(values: Sequence[float]) -> float:
    """Return half of Student's 95 % interval of the mean, in the unit of the values; infinite below two values.

    >>> round(half_width([0.49, 0.50, 0.51]), 4)
    0.0248
    """
    n = len(values)
    if n < 2:
        return float("inf")
    return student(n - 1) * statistics.stdev(values) / math.sqrt(n)


class Deployment(NamedTuple):
    """The runtime and the device that serve a model; this machine's device has no name.

    >>> print(Deployment("onnxruntime"), "·", Deployment("onnxruntime", "jetson"))
    onnxruntime · onnxruntime on jetson
    """

    runtime: str
    device: str = ""

    def __str__(self) -> str:
        return " on ".join(filter(None, self))


@dataclass(frozen=True, kw_only=True)
class Window:
    """One stretch of interleaved runs of a reference, the baseline or a bridge, and the candidate.

    Attributes:
        baseline_ns: clock readings of single runs of the reference, in nanoseconds.
        candidate_ns: clock readings of single candidate runs, in nanoseconds.
        contention: with one thread wall time over CPU time; with several, the cores that all processes wanted over
            the cores there are, at least 1. Above `CONTENDED` the machine was contended.
        timed: how many runs of the candidate were timed, if only their percentile is kept here; see `raw_times`.
        bridge: the reference's own ratio to the baseline; 1 if it is the baseline.
    """

    baseline_ns: tuple[float, ...]
    candidate_ns: tuple[float, ...]
    contention: float = 1.0
    timed: int = 0
    bridge: float = 1.0

    def ratio(self, percentile: float = MEDIAN) -> float:
        """Return a percentile of the candidate's times, divided by the baseline's."""
        return self.bridge * quantile(self.candidate_ns, percentile) / quantile(self.baseline_ns, percentile)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """The latency of a candidate as a ratio to the interleaved baseline, with the raw times.

    Milliseconds are the ratio times the baseline's calibrated milliseconds. All are of one percentile of the runs.
    Models are compared by their ratios alone, since the baseline's milliseconds are common to all; a claim in
    milliseconds, `low_ms` to `high_ms`, is also as wide as those varied when they were calibrated.

    The ratio is the mean of the windows' ratios. Its interval is Student's 95 % interval of that mean, widened by the
    `placement` of the processes that the windows come from, and by how surely the ratio of a bridge is known, if the
    candidate was timed against one.

    >>> windows = tuple(Window(baseline_ns=(100,), candidate_ns=(c,)) for c in (49, 50, 51))
    >>> latency = Latency(windows=windows, baseline_ms=10.0)
    >>> latency.median_ms, round(latency.low_ms, 2), round(latency.high_ms, 2)
    (5.0, 4.75, 5.25)

    Attributes:
        baseline_spread: how far the baseline's milliseconds varied, relative to them; see `Calibration.spread`.
        processes: how many processes the windows come from; 0 if nothing was timed.
        bridge_spread: half-width of the 95 % interval of the bridge's ratio to the baseline, relative to that ratio; 0
            without a bridge.
    """

    windows: tuple[Window, ...]
    baseline_ms: float
    runtime: str = "onnxruntime"
    device: str = ""
    clock: str = "cpu"
    threads: int = 1
    percentile: float = MEDIAN
    baseline_spread: float = 0.0
    build_s: float = 0.0
    processes: int = 0
    bridge_spread: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def deployment(self) -> Deployment:
        """The runtime and the device that were timed."""
        return Deployment(self.runtime, self.device)

    @cached_property
    def ratios(self) -> tuple[float, ...]:
        """The ratio of each window."""
        return tuple(window.ratio(self.percentile) for window in self.windows)

    @cached_property
    def ratio(self) -> float:
        """Mean of the windows' ratios, the centre of Student's interval."""
        return statistics.fmean(self.ratios)

    @cached_property
    def half_width(self) -> float:
        """Half of the 95 % interval; infinite for a single window."""
        between = half_width(self.ratios)
        if not self.processes:  # nothing was timed
            return between
        placed = placement(self.median_ms) / math.sqrt(self.processes)
        return math.hypot(between, self.ratio * placed, self.ratio * self.bridge_spread)

    @property
    def median_ms(self) -> float:
        """Milliseconds of one run."""
        return self.ratio * self.baseline_ms

    @property
    def low_ms(self) -> float:
        """Lower end of the milliseconds that are claimed: the ratio's interval and the baseline's spread."""
        return max(0.0, self.ratio - self._claimed) * self.baseline_ms

    @property
    def high_ms(self) -> float:
        """Upper end of the milliseconds that are claimed, which a target must allow."""
        return (self.ratio + self._claimed) * self.baseline_ms

    @property
    def _claimed(self) -> float:
        return math.hypot(self.half_width, self.ratio * self.baseline_spread)

    @property
    def least_ms(self) -> float:
        """Lower end of the ratio's 95 % interval, at the baseline's calibrated speed."""
        return max(0.0, self.ratio - self.half_width) * self.baseline_ms

    @property
    def most_ms(self) -> float:
        """Upper end of the ratio's 95 % interval, at the baseline's calibrated speed."""
        return (self.ratio + self.half_width) * self.baseline_ms

    @property
    def runs(self) -> int:
        """Number of timed runs of the candidate."""
        return sum(window.timed or len(window.candidate_ns) for window in self.windows)

    @property
    def contended(self) -> bool:
        """Whether others disturbed more than half of the windows."""
        return statistics.median(w.contention for w in self.windows) > CONTENDED

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why a quiet machine might give another latency: each is the beginning of a sentence."""
        doubts = []
        if self.contended:
            doubts.append("other programs ran while it was timed")
        if self.environment.get("trainers_paused") == UNPAUSED:
            doubts.append("trainings of this machine's studies did not pause while it was timed")
        return tuple(doubts)

    def joined(self, other: Latency) -> Latency:
        """Return two latencies of the same model as one, in the worse of their environments."""
        return replace(
            self,
            windows=other.windows + self.windows,
            processes=self.processes + other.processes,
            bridge_spread=max(self.bridge_spread, other.bridge_spread),
            environment=worst(other.environment, self.environment),
        )

    def meets(self, target_ms: float) -> bool:
        """Whether even the upper end of the claim is within the target."""
        return self.high_ms <= target_ms

    def placed(self, target_ms: float) -> bool:
        """Whether the model clearly meets the target, or clearly misses it.

        >>> windows = tuple(Window(baseline_ns=(100,), candidate_ns=(c,)) for c in (49, 50, 51))
        >>> latency = Latency(windows=windows, baseline_ms=10.0)  # between 4.75 and 5.25 ms
        >>> [latency.placed(target_ms) for target_ms in (4.7, 5.0, 5.3)]
        [True, False, True]
        """
        return self.least_ms > target_ms or self.meets(target_ms)

    def tied(self, other: Latency) -> bool:
        """Whether the intervals of the two ratios overlap."""
        return self.least_ms <= other.most_ms and other.least_ms <= self.most_ms


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Everything that was measured of one candidate in one deployment.

    Attributes:
        accuracy: the task's metric on the validation data, of the exported model in its runtime.
        latency: see `Latency`.
        size_bytes: size of the exported file.
        params: weights and biases of the compressed network.
        macs: multiply-accumulates of one example.
        test_accuracy: the metric on the test data; None before the end of a run.
        one_shot_accuracy: the validation metric before any training, perhaps on a part of the data.
        doubted: why early stopping would have stopped it, if it was trained anyway; see `Promotion`.
        rung: the last rung that the candidate reached.
        epochs: passes over the training data of this model; 0 if training did not make it better.
        failure: why its training, or its final training, failed; all numbers are from before that.
        parity: largest difference between PyTorch and the runtime, as a share of the outputs' range.
        agreement: share of examples for which both have the same largest output; None if outputs are no classes.
        seconds: wall time spent on each rung.
        file: name of the file that its runtime serves.
        low_precision: share of the multiply-accumulates that run on fewer than 32 bits, as the built model reports;
            None if it was not asked or does not report it.
        memory_bytes: peak memory of a fresh process that serves it; None before the end of a run unless a limit asks.
        energy_mj: millijoules of one run, by a counter of the machine; None unless a limit asks.
        warnings: why a number should not be trusted, or is worse than intended; one sentence each.
        scores: the packed metric of each validation example; empty if the metric gives a single number. See `scores`.
        test_scores: the same for the test data.
    """

    accuracy: float
    latency: Latency
    size_bytes: int
    params: int
    macs: int
    test_accuracy: float | None = None
    one_shot_accuracy: float | None = None
    doubted: str = ""
    rung: str = "short"
    epochs: float = 0.0
    failure: Infeasible | None = None
    parity: float = 0.0
    agreement: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    file: str = "model.onnx"
    low_precision: float | None = None
    memory_bytes: int | None = None
    energy_mj: float | None = None
    warnings: tuple[str, ...] = ()
    scores: str = ""
    test_scores: str = ""

    @property
    def deployment(self) -> Deployment:
        """The runtime and the device that it was measured with."""
        return self.latency.deployment

    @property
    def metrics(self) -> tuple[float, ...]:
        """The known values of the metric: on the validation data, on the test data, before training."""
        values = (self.accuracy, self.test_accuracy, self.one_shot_accuracy)
        return tuple(value for value in values if value is not None and math.isfinite(value))


Measurements = tuple[Measurement, ...]
"""What was measured of one candidate: one measurement for each deployment, the deciding one first; see `ranked`."""

Timed = TypeVar("Timed", Latency, Measurement)


def best_on_each_device(each: Iterable[Timed], key: Callable[[Timed], Any]) -> dict[str, Timed]:
    """Return for each device the one with the least key: a device may serve a candidate by any of its runtimes."""
    return {one.deployment.device: one for one in sorted(each, key=key, reverse=True)}


def deciding(each: Iterable[Timed], key: Callable[[Timed], Any]) -> Timed:
    """Return the one that decides about a candidate: a model must do on all devices, so the worst device's best.

    Args:
        each: one for each of the candidate's deployments, at least one.
        key: less is better.
    """
    return max(best_on_each_device(each, key).values(), key=key)


def slowest(latencies: Iterable[Latency]) -> Latency:
    """Return the latency that decides: on the slowest device that of the fastest runtime."""
    return deciding(latencies, lambda latency: latency.median_ms)


def ranked(
    measurements: Iterable[Measurement], key: Callable[[Measurement], Any] = lambda m: m.latency.median_ms
) -> Measurements:
    """Return a candidate's measurements from best to worst, except that the deciding one comes first.

    Args:
        measurements: one for each deployment, at least one.
        key: less is better; by default the latency.
    """
    each = sorted(measurements, key=key)
    first = deciding(each, key)
    return first, *(m for m in each if m is not first)


@dataclass(frozen=True, kw_only=True)
class Infeasible:
    """A candidate that cannot be part of the front, and why.

    Attributes:
        reason: one sentence.
        rung: where it ended.
        latency: its latency, if it was timed: on the slowest device, with the fastest runtime.
        size_bytes: its size then; this and the other costs are the least of all deployments.
        memory_bytes: its peak memory, if that was measured.
        energy_mj: its energy, if that was measured.
        one_shot_accuracy: the same before any training, if it was scored, perhaps on a part of the data.
        raised: whether code raised an error, most often the task's own, and the candidate was not judged.
    """

    reason: str
    rung: str
    latency: Latency | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    energy_mj: float | None = None
    one_shot_accuracy: float | None = None
    raised: bool = False


Outcome = Measurements | Infeasible
"""What an evaluator returns for a candidate."""


def representative(outcome: Outcome) -> Measurement | Infeasible:
    """Return what stands for a whole outcome: the measurement that decides by its latency, or the reason."""
    return outcome if isinstance(outcome, Infeasible) else outcome[0]


def known(outcome: Measurement | Infeasible, name: str) -> float | None:
    """Return a cost or the accuracy; None if it was not measured."""
    if name == "latency":
        return None if outcome.latency is None else outcome.latency.high_ms
    if name == "accuracy":
        return outcome.accuracy if isinstance(outcome, Measurement) else None
    fields = {"size": outcome.size_bytes, "memory": outcome.memory_bytes, "energy": outcome.energy_mj}
    return fields.get(name)


def cut(outcome: Infeasible) -> bool:
    """Return whether a candidate was stopped because it cost too much, and not because something failed."""
    return known(outcome, outcome.rung) is not None
