"""Every technique alone at three strengths, ways to choose channels, ways to distil, and combinations, side by side.

    python bench/techniques.py --data-dir DIR      Fashion-MNIST, about half an hour
    python bench/techniques.py --quick             the digits study, little training: a smoke test

Each row is one candidate of the same network: its accuracy on test images before and after the same short training, in
ONNX Runtime; its latency as a ratio to the interleaved unchanged network; the bytes of its ONNX file and of the compact
file; the seconds that its techniques and its export took. Two of these may run side by side, each with a part of the
rows (`--only`): while one measures the other pauses.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from common.environment import describe

from autocompress.compressors.compact.acz import stored_bytes
from autocompress.compressors.inherited_weights import Ancestor
from autocompress.compressors.pipeline import Compressed, apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.evaluators import runtimes
from autocompress.evaluators.device_lock import pause, training
from autocompress.evaluators.ladder.served import Served, source_of
from autocompress.evaluators.meters.isolated_engine import engine
from autocompress.evaluators.meters.latency import CAREFUL, PROBE, SEARCH, Meter, meter_for
from autocompress.spaces.candidate import (
    BITS,
    DEPTH,
    DISTILLATION,
    FACTORIZATION,
    PALETTE,
    PRUNING,
    PRUNING_RATIO,
    QUANTIZATION,
    RANK,
    SPARSITY,
    Candidate,
)
from autocompress.spaces.space import Choice, Space
from autocompress.studies import loading
from autocompress.studies.task import Task

RUNTIME = runtimes.load("onnxruntime")

EVERYTHING = replace(RUNTIME.capabilities, sparsity=(0.5, 0.75, 0.9), palettes=True)
"""What ONNX Runtime executes faster, and what makes files smaller."""

IMPORTANCES = ("magnitude", "l1", "taylor", "hessian", "bn_scale", "lamp", "median")

KINDS: dict[str, dict[str, float | int | str]] = {
    "the task's loss alone": {"weight": 0.0},
    "0.3 at temperature 4": {"weight": 0.3, "temperature": 4.0},
    "0.7 at temperature 4": {"weight": 0.7, "temperature": 4.0},
    "0.7 at temperature 1": {"weight": 0.7, "temperature": 1.0},
    "features": {"weight": 0.0, "features": 1.0},
    "attention": {"weight": 0.0, "attention": 1.0},
    "0.3 at temperature 4, both": {"weight": 0.3, "temperature": 4.0, "features": 1.0, "attention": 1.0},
}


@dataclass(frozen=True)
class Row:
    """A candidate to try; ``seeds`` trainings, whose median counts, perhaps from the weights of another candidate."""

    technique: str
    strength: str
    candidate: Candidate
    seeds: int = 1
    ancestor: Candidate | None = None


def main() -> None:
    """Parse the command line, try every row, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", default=[""], help="only rows whose technique contains one of these")
    parser.add_argument("--quick", action="store_true", help="the digits study, few rows: a smoke test")
    asked = parser.parse_args()
    print(describe(RUNTIME))
    study, epochs = ("digits", 0.05) if asked.quick else ("fashion_mnist", asked.epochs)
    task = loading.load(study, data_dir=asked.data_dir)
    assert task.test is not None
    bench = Bench(replace(task, test=list(task.test)[::4]), epochs, quick=asked.quick)
    print(f"{study}, {epochs:g} passes of training, every fourth batch of the test images\n", flush=True)
    print(f"{'':46}{'one-shot':>9}{'trained':>9}{'ratio':>15}{'MB':>8}{'.acz MB':>9}{'apply s':>9}{'export s':>9}")
    for number, row in enumerate(rows(space_of(inspect(task.model, task.examples), EVERYTHING, task))):
        if any(part in row.technique for part in asked.only) and not (asked.quick and number % 12):
            print(f"{row.technique + ', ' + row.strength:46}{bench.line(row)}", flush=True)


def rows(space: Space) -> Iterator[Row]:
    """Yield what is compared; every row changes all parts of the network alike."""
    prune = {ratio: {PRUNING_RATIO: ratio} for ratio in (0.25, 0.5, 0.75)}
    yield Row("unchanged", "", Candidate())
    yield from (Row("pruning", f"{ratio:.0%}", at(space, axes)) for ratio, axes in prune.items())
    for count in (1, 2, 4):
        yield Row("depth", f"{count} of {len([*space.on(DEPTH)])} branches gone", shallow(space, count))
    for kind in ("tucker", "cp"):
        for share in (0.5, 0.25, 0.125):
            yield Row(
                "low rank", f"{kind}, {share:.1%} of it", at(space, {RANK: share}, {FACTORIZATION: {"kind": kind}})
            )
    yield Row("INT8", "every second layer", every_second(at(space, {BITS: 8})))
    yield Row("INT8", "all layers", at(space, {BITS: 8}))
    yield Row("INT8", "all layers, ranges by max", at(space, {BITS: 8}, {QUANTIZATION: {"calibration": "max"}}))
    yield Row("INT8", "all layers, learned steps", at(space, {BITS: 8}, {QUANTIZATION: {"scales": "learned"}}))
    yield from (Row("palettes", f"{bits} bits", at(space, {PALETTE: bits})) for bits in (6, 4, 2))
    yield from (Row("zeros", f"{share:.0%}", at(space, {SPARSITY: share})) for share in (0.5, 0.75, 0.9))
    for importance in IMPORTANCES:
        yield Row("importance at 50 %", importance, at(space, prune[0.5], {PRUNING: {"importance": importance}}))
    for steps in (2, 4):
        slowly = at(space, prune[0.75], {PRUNING: {"steps": steps}})
        yield Row("pruning in steps, 75 %", f"{steps}", slowly, seeds=3)
    for penalty in ("l1", "group"):
        pressed = at(space, prune[0.75], {PRUNING: {"penalty": penalty}})
        yield Row("pruning after a penalty, 75 %", penalty, pressed, seeds=3)
    for ratio in (0.5, 0.75):
        for name, settings in KINDS.items():
            taught = at(space, prune[ratio], {DISTILLATION: settings})
            yield Row(f"distillation at {ratio:.0%}", name, taught, seeds=3 if ratio == 0.75 else 1)
    half, narrow = at(space, prune[0.5]), at(space, prune[0.75])
    yield Row("inheritance", "75 % from a trained 50 %", narrow, ancestor=half)
    for ratio in (0.25, 0.5, 0.75):
        both = prune[ratio] | {BITS: 8}
        yield Row("combined", f"pruning {ratio:.0%}, INT8", at(space, both))
        yield Row("combined", f"pruning {ratio:.0%}, rank 50 %, INT8", at(space, both | {RANK: 0.5}))
    for ratio in (0.25, 0.5):
        yield Row(
            "combined", f"2 branches gone, pruning {ratio:.0%}, INT8", shallow(space, 2, prune[ratio] | {BITS: 8})
        )
    yield Row("combined", "pruning 50 %, palettes of 4 bits", at(space, prune[0.5] | {PALETTE: 4}))


Settings = dict[str, dict[str, float | int | str]]


def at(space: Space, axes: dict[str, float], settings: Settings | None = None) -> Candidate:
    """Return the candidate that has on each axis, for every target, the level nearest to a value."""

    def pick(choice: Choice) -> int:
        if choice.axis in axes:
            return min(range(len(choice.levels)), key=lambda i: abs(float(choice.levels[i]) - axes[choice.axis]))
        return 0

    found = space.at(pick).to_dict()
    for axis, values in (settings or {}).items():
        found[axis] = {**found.get(axis, {}), **values}
    return Candidate(found)


def shallow(space: Space, count: int, axes: dict[str, float] | None = None) -> Candidate:
    """Return the candidate without the last branches, and with levels as in `at`; nothing is done to what is gone."""
    last = [choice.name for choice in space.on(DEPTH)][-count:]
    levels = space.levels(at(space, axes or {}))
    return space.candidate(levels | dict.fromkeys(last, 1))


def every_second(candidate: Candidate) -> Candidate:
    """Return the candidate with the bits of every second of its layers."""
    kept = dict(list(candidate[BITS].items())[::2])
    return Candidate({**candidate.axes, BITS: kept})


class Bench:
    """Builds, trains, scores and times candidates of one task."""

    def __init__(self, task: Task, epochs: float, *, quick: bool) -> None:
        self.task, self.epochs = task, epochs
        self.careful, self.plan = (PROBE, PROBE) if quick else (CAREFUL, SEARCH)
        self.supplies: Supplies = supplies_of(task, integers=RUNTIME.capabilities.integers)
        self.baseline = self.converted(apply_candidate(task, Candidate(), self.supplies, epochs=0))
        self.meter = self.calibrated()

    def calibrated(self) -> Meter:
        """Return a meter that knows the unchanged network's milliseconds."""
        inputs = [x.numpy() for x in self.supplies.examples]
        calibration = meter_for(RUNTIME.name, baseline=self.baseline, inputs=inputs).calibrate(self.careful)
        print(f"the unchanged network: {calibration.median_ms:.2f} ms")
        return meter_for(RUNTIME.name, baseline=self.baseline, inputs=inputs, baseline_ms=calibration.median_ms)

    def line(self, row: Row) -> str:
        """Return a row's figures, or why it has none."""
        try:
            ancestor = self.train(row.ancestor, 0).ancestor if row.ancestor else None
            built = apply_candidate(self.task, row.candidate, self.supplies, epochs=0, ancestor=ancestor)
            artefact = self.converted(built)
            one_shot = self.score(artefact)
            latency = self.meter.measure(artefact, self.plan)
            trained = [self.converted(self.train(row.candidate, seed, ancestor)) for seed in range(row.seeds)]
            accuracies = [self.score(file) for file in trained]
        except InfeasibleError as error:
            return f"  {error.reason}"
        return (
            f"{one_shot:9.2%}{statistics.median(accuracies):9.2%}"
            f"{f'{latency.ratio:.3f} ±{latency.half_width:.3f}':>15}{len(artefact) / 1e6:8.2f}"
            f"{stored_bytes(trained[0]) / 1e6:9.2f}{built.apply_s:9.2f}{built.export_s:9.2f}"
        )

    def train(self, candidate: Candidate, seed: int, ancestor: Ancestor | None = None) -> Compressed:
        """Return a candidate after the training that all have."""
        with training():
            return apply_candidate(
                self.task, candidate, self.supplies, epochs=self.epochs, seed=seed, ancestor=ancestor, pause=pause
            )

    def converted(self, built: Compressed) -> bytes:
        """Return the file that ONNX Runtime serves."""
        return RUNTIME.convert(source_of(built, self.supplies))

    def score(self, artefact: bytes) -> float:
        """Return the metric on the test images, in ONNX Runtime."""
        assert self.task.test is not None
        with engine(RUNTIME, artefact, threads=1) as served:
            return float(self.task.metric(Served(served), self.task.test))


if __name__ == "__main__":
    main()
