"""The same network through other tools and through a search of ours, in the same time, timed alike.

    python bench/peers.py --data-dir DIR        Fashion-MNIST: the tools, then a search for as long as they took
    python bench/peers.py --data-dir DIR --no-search --out tools.json
    python bench/peers.py --data-dir DIR --with tools.json      the search alone, beside what is in the file
    python bench/peers.py --quick               the digits study, few points: a smoke test

Each point is an ONNX file that ONNX Runtime serves with one thread: its accuracy there on validation and test images;
its latency as a ratio to the interleaved unchanged network, until that is as certain as a search's last measurements;
its bytes; the seconds that it took to build, train, score and time. One process works at a time, on both sides. What
the other tools do is in common/peers_tools.py; NNCF comes with ``pip install 'autocompress[bench]'``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from common.environment import describe
from common.peers_results import HEADER, OURS, UNCHANGED, Results, Row, summary
from common.peers_tools import RATIOS, TOOLS, Job, Made, has_nncf

from autocompress.compressors.modules import count
from autocompress.compressors.pipeline import Compressed, apply_candidate, supplies_of
from autocompress.errors import InfeasibleError
from autocompress.evaluators import runtimes
from autocompress.evaluators.device_lock import training
from autocompress.evaluators.ladder.served import source_of
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement
from autocompress.evaluators.meters.latency import CAREFUL, PROBE, Meter, meter_for, settled
from autocompress.search.careful_measurement import ROUND, ROUNDS
from autocompress.search.options import Options
from autocompress.search.progress import Lines
from autocompress.search.study_run import run
from autocompress.spaces.candidate import Candidate
from autocompress.studies import loading
from autocompress.studies.task import Task
from autocompress.units import parse_latency

RUNTIME = runtimes.load("onnxruntime")

CALIBRATION = 300
"""Images that set the ranges of whatever is quantized; NNCF's default."""


class Bench:
    """Builds, scores and times what the tools make."""

    def __init__(self, job: Job, baseline_ms: float | None) -> None:
        self.job = job
        built = apply_candidate(job.task, Candidate(), job.supplies, epochs=0)
        self.unchanged: Compressed = built
        self.baseline = RUNTIME.convert(source_of(built, job.supplies))
        self.meter = self._meter(baseline_ms or self._meter(None).calibrate(PROBE if job.quick else CAREFUL).median_ms)

    def _meter(self, baseline_ms: float | None) -> Meter:
        inputs = [x.numpy() for x in self.job.supplies.examples]
        return meter_for(RUNTIME.name, baseline=self.baseline, inputs=inputs, baseline_ms=baseline_ms)

    def points(self, who: str) -> Iterator[Row]:
        """Yield what a tool makes of the network."""
        begun = time.monotonic()
        for what, make in TOOLS[who](self.job):
            outcome: Measurement | Infeasible
            try:
                with training():
                    made = make()
                outcome = self.measured(made)
            except InfeasibleError as error:
                outcome = Infeasible(reason=error.reason, rung=error.rung)
            except Exception as error:  # another tool may fail in any way
                said = (str(error).splitlines() or [""])[0]
                outcome = Infeasible(reason=f"{type(error).__name__}: {said}", rung="build")
            ended = time.monotonic()
            yield Row(who, what, ended - begun, outcome)
            begun = ended

    def measured(self, made: Made) -> Measurement:
        """Return what a file costs and how accurate it is."""
        with training(), RUNTIME.build(made.artefact, threads=1) as engine:
            accuracy, test = (self.job.score(engine, split) for split in ("validation", "test"))
        return Measurement(
            accuracy=accuracy,
            test_accuracy=test,
            latency=self.timed(made.artefact),
            size_bytes=len(made.artefact),
            params=sum(p.numel() for p in made.network.parameters()),
            macs=sum(cost.macs for cost in count(made.network, self.job.supplies.examples).values()),
        )

    def timed(self, artefact: bytes) -> Latency:
        """Time a file as a search times its front at the end: in a fresh process each round."""
        if self.job.quick:
            return self.meter.measure(artefact, PROBE)
        latency = self.meter.measure(artefact, ROUND)
        while not settled(latency.ratios, ROUNDS):
            latency = self.meter.measure(artefact, ROUND).joined(latency)
        return latency


def search(task: Task, asked: argparse.Namespace, epochs: float, budget_s: float) -> Iterator[Row]:
    """Yield the front of a search of ours that is to end after so many seconds."""
    with tempfile.TemporaryDirectory(prefix="autocompress-") as scratch:
        options = Options(
            target_ms=parse_latency(asked.target_latency),
            out=asked.run_dir or Path(scratch, "run"),
            trials=2 if asked.quick else 100_000,
            time_budget_s=None if asked.quick else budget_s,
            workers=0 if asked.quick else 1,
            epochs=epochs if asked.quick else None,
            final_epochs=epochs,
        )
        front = run(asked.study, lambda: task, options, Lines(lambda text: print(f"  {text}", flush=True)))
    for model in front.models:
        what = model.id if model.role == "front" else f"{model.id} ({model.role})"
        yield Row(OURS, what, sum(model.measurement.seconds.values()), model.measurement)


def main() -> None:
    """Parse the command line, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--target-latency", default="2ms")
    parser.add_argument("--epochs", type=float, help="passes of training for each point; by default the study's last")
    parser.add_argument("--peers", nargs="+", choices=TOOLS, default=list(TOOLS), help="which tools to run")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS, help="shares of channels that are pruned")
    parser.add_argument("--no-search", action="store_true", help="only the other tools")
    parser.add_argument("--with", dest="files", type=Path, nargs="+", default=[], help="what --out wrote before")
    parser.add_argument("--out", type=Path, help="a JSON file for everything")
    parser.add_argument("--run-dir", type=Path, help="keep the search's run directory here")
    parser.add_argument("--quick", action="store_true", help="digits, few points, little training: a smoke test")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    if asked.quick:
        asked.study, asked.target_latency = "digits", "8ms"  # which INT8 meets
    task = with_calibration(loading.load(asked.study, data_dir=asked.data_dir))
    if task.test is None:
        raise SystemExit(f"a comparison needs test data that nobody chose by; the task of {asked.study} has none")
    if asked.quick:
        task = replace(task, validation=list(task.validation)[:1], test=list(task.test)[:1])
    epochs = asked.epochs or (0.1 if asked.quick else task.final_epochs)
    results = Results(asked.study, epochs, [describe(RUNTIME) + versions()])
    for path in asked.files:
        results.read(path)
    print("\n".join(results.environments))
    print(f"{asked.study}, {epochs:g} passes of training, {CALIBRATION} calibration images\n\n{HEADER}", flush=True)
    for row in results.rows:
        print(row)
    supplies = supplies_of(task, integers=RUNTIME.capabilities.integers)
    job = Job(task=task, supplies=supplies, runtime=RUNTIME, epochs=epochs, ratios=asked.ratios, quick=asked.quick)
    compare(job, results, asked)
    print(f"\n{summary(results, parse_latency(asked.target_latency))}")


def compare(job: Job, results: Results, asked: argparse.Namespace) -> None:
    """Run what the files did not hold."""
    known = {row.who for row in results.rows}
    todo = [name for name in asked.peers if name not in known]
    if UNCHANGED not in known or todo:
        began = time.monotonic()
        baseline_ms = results.of(UNCHANGED)[0].latency.baseline_ms if UNCHANGED in known else None
        bench = Bench(job, baseline_ms)
        if UNCHANGED not in known:
            outcome = bench.measured(Made(bench.baseline, bench.unchanged.plain))
            results.seconds[UNCHANGED] = time.monotonic() - began
            results.add(Row(UNCHANGED, "", results.seconds[UNCHANGED], outcome))
            results.write(asked.out)
    for who in todo:
        if who == "nncf" and not has_nncf():
            print("nncf          left out: it is not installed (pip install 'autocompress[bench]')", flush=True)
            continue
        results.seconds[who] = 0.0
        for row in bench.points(who):
            results.seconds[who] += row.seconds
            results.add(row)
            results.write(asked.out)
    if asked.no_search or OURS in known:
        return
    every_s, began = sum(results.seconds.values()), time.monotonic()
    how_long = "two trials" if asked.quick else f"in the {every_s:.0f} s that all of this took"
    print(f"\na search, {how_long}", flush=True)
    for row in search(job.task, asked, job.epochs, every_s):
        assert isinstance(row.outcome, Measurement)
        results.add(replace(row, outcome=results.alike(row.outcome)))
    results.seconds[OURS] = time.monotonic() - began
    results.write(asked.out)


def with_calibration(task: Task) -> Task:
    """Return a task whose calibration images are so many from the start of its training data, in four batches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images: list[torch.Tensor] = []
        for batch in task.train:
            images += task.inputs(batch)[0]
            if len(images) >= CALIBRATION:
                break
    return replace(task, calibration=list(torch.stack(images[:CALIBRATION]).chunk(4)))


def versions() -> str:
    """Return the versions of the other tools."""
    packages = ["torch-pruning", *(["nncf"] if has_nncf() else [])]
    return "".join(f", {name} {version(name)}" for name in packages)


if __name__ == "__main__":
    main()
