"""How far off the measured latency is, against quiet truth: quiet, beside training on one core, and on both.

    python bench/latency_noise.py                     twelve models, three times each, in five conditions
    python bench/latency_noise.py --run runs/digits   what a study measured while it trained, measured again now

Twelve residual networks, pruned evenly, in float and in INT8, are timed against the unchanged one as in a search: by
three processes each, by as many as it takes to tell them from a target, and the same against a bridge. Wrong are those
that are placed clearly on the wrong side of the target. A slot is the time in which the device is held and trainers
pause. The truth is the careful measurement while nothing else runs, so leave the machine alone meanwhile. Trainers are
of two kinds: ours, of the lowest priority, which pause while something is measured; and strangers, which do neither.
Beside it stands what a bare loop of wall times says under the same load.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.environment import describe
from common.trainers import CONDITIONS, trainers
from scipy.stats import kendalltau

from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.evaluators import runtimes
from autocompress.evaluators.ladder.deployments import time_deployments, unsure
from autocompress.evaluators.ladder.served import source_of
from autocompress.evaluators.measurement import Deployment, Latency
from autocompress.evaluators.meters.bridge import Bridge
from autocompress.evaluators.meters.latency import CAREFUL, PROBE, Plan, ProcessMeter
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import BASELINE
from autocompress.profiles.profile import Profile
from autocompress.search.prepare import BRIDGE_PROCESSES
from autocompress.spaces.uniform import uniform
from autocompress.storage.invocation import Invocation
from autocompress.storage.run_directory import read_record
from autocompress.storage.study_store import StudyStore
from autocompress.studies import loading
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

RATIOS = (0.0, 0.25, 0.5, 0.65, 0.8, 0.9)

BRIDGE = "INT8 −50%"
"""The network that stands for the unchanged one where a bridge is tried."""

BEFORE = replace(PROBE, gap_s=0.2, min_runs=20, tolerance=0.04)
"""What one process did in version 0.1."""

WAYS = ("before", "now", "bridged")
"""By three processes each; by as many as the target needs; and the same against a bridge."""

FACTORS = (0.5, 0.8, 0.93, 1.07, 1.25, 2.0)
"""Targets, as shares of a model's latency."""

TIMEOUT_S = 600.0

TRUTH = replace(CAREFUL, min_windows=3, max_windows=3, gap_s=0.05)
"""How long each process takes that tells the truth about a model."""

ROUNDS = 6
"""Processes that the truth comes from; each measures three windows, and they take turns."""

SLOW_MS = 5.0
"""Models from here on are promised 5 %, faster ones 10 %."""

LOOP = """
import sys, time, numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
feeds = {session.get_inputs()[0].name: numpy.load(sys.argv[2])}
session.run(None, feeds)
start = time.perf_counter()
for _ in range(50):
    session.run(None, feeds)
print((time.perf_counter() - start) / 50 * 1e3)
"""


@dataclass(frozen=True)
class Model:
    """A network to time, and its quiet truth."""

    name: str
    artefact: bytes
    truth: Latency


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched(ProcessMeter):
    """Keeps what each timing process found."""

    each: list[Latency] = field(default_factory=list)

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Measure, and keep it."""
        latency = super().measure(artefact, plan, runtime=runtime, timeout_s=timeout_s)
        self.each.append(latency)
        return latency


@dataclass(frozen=True)
class Reading:
    """One measurement under load, beside a bare loop's milliseconds.

    Attributes:
        way: how it was measured; see `WAYS`.
        model: the network.
        latency: the result.
        each: what each of its processes found.
        wall_s: seconds that it took.
        target_ms: the target that it had to tell the model from.
        bare_ms: milliseconds of a bare loop.
    """

    way: str
    model: Model
    latency: Latency
    each: tuple[Latency, ...]
    wall_s: float
    target_ms: float
    bare_ms: float

    @property
    def error(self) -> float:
        """How far the ratio is off, relative to the truth."""
        return abs(self.latency.ratio / self.model.truth.ratio - 1)

    @property
    def bare_error(self) -> float:
        """How far a bare loop's milliseconds are off, relative to the truth."""
        return abs(self.bare_ms / self.model.truth.median_ms - 1)

    @property
    def covered(self) -> bool:
        """Whether the stated interval holds the truth."""
        return abs(self.latency.ratio - self.model.truth.ratio) <= self.latency.half_width

    @property
    def slot_s(self) -> float:
        """Seconds in which the device was its own and trainers paused."""
        spans = [[datetime.fromisoformat(one.environment[end]) for end in ("started", "finished")] for one in self.each]
        return sum((finished - started).total_seconds() for started, finished in spans)

    @property
    def wrong(self) -> bool:
        """Whether it places the model clearly on the other side of the target."""
        inside = self.model.truth.median_ms <= self.target_ms
        return self.latency.placed(self.target_ms) and inside != self.latency.meets(self.target_ms)

    def row(self, condition: str) -> dict[str, object]:
        """Return the reading as data for JSON."""
        return {
            "condition": condition,
            "way": self.way,
            "model": self.model.name,
            "truth": self.model.truth.ratio,
            "truths": self.model.truth.ratios,
            "ratios": self.latency.ratios,
            "half_width": self.latency.half_width,
            "processes": self.latency.processes,
            "median_ms": self.latency.median_ms,
            "wall_s": self.wall_s,
            "slot_s": self.slot_s,
            "target_ms": self.target_ms,
            "bare_ms": self.bare_ms,
        }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--conditions", default="", help="those whose names hold one of these, such as quiet,ours")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"ways to measure: {', '.join(WAYS)}")
    parser.add_argument("--out", type=Path, help="write every reading to this file too, as lines of JSON")
    parser.add_argument("--run", type=Path, help="a run directory whose study to measure again")
    parser.add_argument("--quick", action="store_true", help="one model beside one trainer, in two ways, once each")
    asked = parser.parse_args()
    print(describe(runtimes.load("onnxruntime")))
    if asked.run is not None:
        again(asked.run)
        return
    repeats, rounds, first = (1, 1, -1) if asked.quick else (asked.repeats, ROUNDS, 0)
    ways = WAYS[1:] if asked.quick else asked.ways.split(",")
    meter, models = prepared(list(networks())[first:], rounds)
    print(f"the unchanged network: {meter.baseline_ms:.2f} ms; truth from {rounds} processes\n", flush=True)
    columns = f"{'median':>8}{'95 %':>7}{'worst':>7}{'covered':>9}{'tau':>6}{'wall s':>8}{'slot s':>8}{'early':>7}"
    print(f"{'condition':36}{'measured':12}{'models':>7}{columns}{'wrong':>7}{'bare loop':>11}")
    wanted = [c for c in CONDITIONS if any(word in c[0] for word in asked.conditions.split(","))]
    found: list[Reading] = []
    for condition, count, ours in (wanted[1:2] or wanted) if asked.quick else wanted:
        with trainers(count, ours=ours):
            readings = [
                read(meter, model, way, FACTORS[(i + j) % len(FACTORS)])
                for i in range(repeats)
                for j, model in enumerate(models)
                for way in ways
            ]
        report(condition, readings)
        found += readings
        if asked.out is not None:
            with asked.out.open("a") as file:
                file.writelines(f"{json.dumps(reading.row(condition))}\n" for reading in readings)
    report_processes([one for one in found if one.way == "now"])


def networks() -> dict[str, tuple[float, bool]]:
    """Return by name how much each of twelve networks is pruned, and whether it is in INT8."""
    return {
        f"{'INT8' if quantized else 'float'} −{ratio:.0%}": (ratio, quantized)
        for quantized in (False, True)
        for ratio in RATIOS
    }


def prepared(names: Sequence[str], rounds: int) -> tuple[Watched, list[Model]]:
    """Return a calibrated meter, and networks with their quiet truth."""
    torch.manual_seed(0)
    images = [(torch.randn(8, 1, 16, 16), torch.zeros(8, dtype=torch.long)) for _ in range(4)]
    task = Task(ResidualNet((192, 384), (2, 2), classes=10).eval(), images[0][0][:1], images, images)
    runtime = runtimes.load("onnxruntime")
    supplies = supplies_of(task, integers=runtime.capabilities.integers)
    space = space_of(inspect(task.model, task.examples), runtime.capabilities, task)
    artefacts = {}
    for name in dict.fromkeys((next(iter(networks())), *names, BRIDGE)):
        ratio, quantized = networks()[name]
        built = apply_candidate(task, uniform(space, ratio, quantized=quantized), supplies, epochs=0)
        artefacts[name] = runtime.convert(source_of(built, supplies))
    inputs = [x.numpy() for x in supplies.examples]
    meter = Watched(baseline=next(iter(artefacts.values())), runtime=runtime.name, inputs=inputs)
    meter = replace(meter, baseline_ms=meter.calibrate(TRUTH).median_ms)
    truths = {name: meter.measure(artefacts[name], TRUTH) for name in names}
    for _ in range(rounds - 1):
        truths = {name: truth.joined(meter.measure(artefacts[name], TRUTH)) for name, truth in truths.items()}
    meter = replace(meter, bridges=(bridged(meter, artefacts[BRIDGE]),))
    return meter, [Model(name, artefacts[name], truths[name]) for name in names]


def bridged(meter: Watched, artefact: bytes) -> Bridge:
    """Return a bridge, measured against the baseline as before a search."""
    latency = meter.measure(artefact, PROBE)
    for _ in range(BRIDGE_PROCESSES - 1):
        latency = latency.joined(meter.measure(artefact, PROBE))
    return Bridge.of(artefact, latency)


def read(meter: Watched, model: Model, way: str, factor: float) -> Reading:
    """Measure a model under whatever load there is, where the target is so many times its latency."""
    target_ms = factor * model.truth.median_ms
    watched = replace(meter, each=[], bridges=meter.bridges if way == "bridged" else ())
    started = time.monotonic()
    if way == "before":
        latency = watched.measure(model.artefact, BEFORE)
        while unsure(latency):
            latency = latency.joined(watched.measure(model.artefact, BEFORE))
    else:
        [latency] = time_deployments(
            {"": watched}, {Deployment(meter.runtime): model.artefact}, {}, TIMEOUT_S, target_ms
        ).values()
    wall_s = time.monotonic() - started
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    network, inputs = folder / f"bare-{os.getpid()}.onnx", folder / f"bare-{os.getpid()}.npy"
    network.write_bytes(model.artefact)
    np.save(inputs, meter.inputs[0])
    said = subprocess.run([sys.executable, "-c", LOOP, network, inputs], capture_output=True, text=True, check=True)
    network.unlink()
    inputs.unlink()
    return Reading(way, model, latency, tuple(watched.each), wall_s, target_ms, float(said.stdout))


def report(condition: str, readings: Sequence[Reading]) -> None:
    """Print for each way to measure a line for the slow models, and one for the fast ones."""
    slow = [r for r in readings if r.model.truth.median_ms >= SLOW_MS]
    fast = [r for r in readings if r not in slow]
    for label, group in ((f"from {SLOW_MS:g} ms", slow), (f"below {SLOW_MS:g} ms", fast)):
        for way in dict.fromkeys(r.way for r in group):
            report_way(f"{condition}, {label}", [r for r in group if r.way == way])


def report_way(title: str, readings: Sequence[Reading]) -> None:
    """Print a line on some models that were measured in one way."""
    models = {r.model.name: r.model for r in readings}
    medians = [statistics.median(r.latency.ratio for r in readings if r.model is model) for model in models.values()]
    truths = [model.truth.ratio for model in models.values()]
    tau = kendalltau(truths, medians).statistic if len(models) > 1 else math.nan
    errors = [r.error for r in readings]
    placed = [r for r in readings if r.latency.placed(r.target_ms)]
    print(
        f"{title:36}{readings[0].way:12}{len(models):7}"
        f"{statistics.median(errors):8.1%}{np.percentile(errors, 95):7.1%}{max(errors):7.1%}"
        f"{statistics.mean(r.covered for r in readings):9.0%}{tau:6.2f}"
        f"{statistics.mean(r.wall_s for r in readings):8.1f}{statistics.mean(r.slot_s for r in readings):8.2f}"
        f"{statistics.mean(unsure(r.latency) for r in readings):7.0%}"
        f"{sum(r.wrong for r in placed):3}/{len(placed):3}"
        f"{statistics.median(r.bare_error for r in readings):11.0%}",
        flush=True,
    )


def report_processes(readings: Sequence[Reading]) -> None:
    """Print how far single processes are off, beside `placement`, which should hold 95 of 100 of them."""
    print("\nsingle processes                   readings   95 % of errors   stated half-width   covered")
    errors = [(one, abs(one.ratio / r.model.truth.ratio - 1), r.model.truth) for r in readings for one in r.each]
    for low, high in ((5.0, math.inf), (2.5, 5.0), (0.0, 2.5)):
        group = [(one, error) for one, error, truth in errors if low <= truth.median_ms < high]
        if group:
            title = f"from {low:g} ms" + (f" to {high:g} ms" if high < math.inf else "")
            stated = [one.half_width / one.ratio for one, _ in group]
            covered = statistics.mean(error <= half for (_, error), half in zip(group, stated, strict=True))
            off = np.percentile([error for _, error in group], 95)
            print(f"{title:35}{len(group):8}{off:17.1%}{statistics.median(stated):20.1%}{covered:10.0%}", flush=True)


def again(folder: Path) -> None:
    """Measure again what a study measured while it trained, and print how far the two are apart."""
    study = json.loads((folder / "study.json").read_text())
    calibration = json.loads((folder / "calibration.json").read_text())
    profile = Profile.from_dict(json.loads((folder / "profile.json").read_text())["profile"])
    runtime = runtimes.load(study["runtime"])
    space = profile.space(space_of(profile.network, runtime.capabilities))
    store = StudyStore(folder, None, study["study"], space, Limits(1.0))
    models = [m for m in store.models() if (folder / m.path / m.measurement.file).exists()]
    asked = Invocation.read(study["asked"])
    source: dict[str, Any] = {name: Path(at) if name != "data" else at for name, at in asked.source.items()}
    served = asked.options.get("batch") or len(loading.load(asked.study, **source).examples[0])
    with np.load(folder / "baseline" / "predictions.npz") as arrays:
        inputs = [arrays[name][:served] for name in arrays.files if name.startswith("input")]
    meter = ProcessMeter(
        baseline=(folder / "baseline" / "model.onnx").read_bytes(),
        runtime=runtime.name,
        inputs=inputs,
        baseline_ms=calibration["median_ms"],
    )
    print(f"{'model':12}{'in its trial':>14}{'at the end':>14}{'quiet':>14}{'error':>8}{'at the end':>12}  inside")
    errors: list[float] = []
    ends: list[float] = []
    inside: list[bool] = []
    for model in models:
        then = model.measurement.latency
        final = read_record(folder / ("" if model.role == BASELINE else "models") / model.id)
        if final is None:  # neither a reference baseline nor of the front
            continue
        end = final[0].latency
        now = meter.measure((folder / model.path / model.measurement.file).read_bytes(), CAREFUL)
        errors.append(abs(then.ratio / now.ratio - 1))
        ends.append(abs(end.ratio / now.ratio - 1))
        inside.append(abs(end.ratio - now.ratio) <= end.half_width + now.half_width)
        print(
            f"{model.id:12}{then.median_ms:11.2f} ms{end.median_ms:11.2f} ms{now.median_ms:11.2f} ms"
            f"{errors[-1]:8.1%}{ends[-1]:12.1%}  {inside[-1]}",
            flush=True,
        )
    for name, found in (("in their trials", errors), ("at the end", ends)):
        print(f"{name}: median error {statistics.median(found):.1%}, worst {max(found):.1%}")
    print(f"intervals meet: {sum(inside)} of {len(inside)}")


if __name__ == "__main__":
    main()
