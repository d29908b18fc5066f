"""How far off the measured latency is, against quiet truth: quiet, beside training on one core, and on both.

    python bench/latency_noise.py                     ten models, three times each, in three conditions
    python bench/latency_noise.py --run runs/digits   what a study measured while it trained, measured again now

Ten residual networks, pruned evenly, in float and in INT8, are timed against the unchanged one as in a search. The
truth is the careful measurement while nothing else runs, so leave the machine alone meanwhile. Trainers are of two
kinds: ours, of the lowest priority, which pause while something is measured; and strangers, which do neither. Beside
it stands what a bare loop of wall times says under the same load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.environment import describe
from scipy.stats import kendalltau

from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.evaluators import runtimes
from autocompress.evaluators.ladder.served import source_of
from autocompress.evaluators.measurement import Latency
from autocompress.evaluators.meters.latency import CAREFUL, SEARCH, Plan, ProcessMeter
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import BASELINE
from autocompress.profiles.profile import Profile
from autocompress.search.careful_measurement import ROUND
from autocompress.spaces.uniform import uniform
from autocompress.storage.invocation import Invocation
from autocompress.storage.run_directory import read_record
from autocompress.storage.study_store import StudyStore
from autocompress.studies import loading
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

RATIOS = (0.0, 0.25, 0.5, 0.65, 0.8)

ROUNDS = 6
"""Processes that the truth comes from; each measures three windows, and they take turns."""

SLOW_MS = 5.0
"""Models from here on are promised 5 %, faster ones 10 %."""

CONDITIONS = (
    ("quiet", 0, True),
    ("one trainer of ours", 1, True),
    ("two trainers of ours", 2, True),
    ("one stranger training", 1, False),
    ("two strangers training", 2, False),
)
"""What else runs: its name, how many trainers, and whether they pause."""

TRAINER = """
import os, torch
from autocompress.evaluators.device_lock import pause, training
torch.set_num_threads(1)
model = torch.nn.Sequential(*[torch.nn.Conv2d(32, 32, 3, padding=1) for _ in range(6)])
optimizer = torch.optim.SGD(model.parameters(), 0.01)
images = torch.randn(16, 32, 32, 32)
if {ours}:
    os.nice(19)
    floor = training()
    floor.__enter__()
def step():
    if {ours}:
        pause()
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()
step()
print("training", flush=True)
while os.getppid() == {parent}:
    step()
"""

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


@dataclass(frozen=True)
class Reading:
    """One measurement under load, beside a bare loop's milliseconds."""

    model: Model
    latency: Latency
    bare_ms: float

    @property
    def error(self) -> float:
        """How far the ratio is off, relative to the truth."""
        return abs(self.latency.ratio / self.model.truth.ratio - 1)

    @property
    def bare_error(self) -> float:
        """How far a bare loop's milliseconds are off, relative to the truth."""
        return abs(self.bare_ms / self.model.truth.median_ms - 1)

    def row(self, condition: str) -> dict[str, object]:
        """Return the reading as data for JSON."""
        return {
            "condition": condition,
            "model": self.model.name,
            "truth": self.model.truth.ratio,
            "truths": self.model.truth.ratios,
            "ratios": self.latency.ratios,
            "processes": self.latency.processes,
            "median_ms": self.latency.median_ms,
            "bare_ms": self.bare_ms,
        }

    @property
    def covered(self) -> bool:
        """Whether the stated interval holds the truth."""
        return abs(self.latency.ratio - self.model.truth.ratio) <= self.latency.half_width


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write every reading to this file too, as lines of JSON")
    parser.add_argument("--run", type=Path, help="a run directory whose study to measure again")
    parser.add_argument("--quick", action="store_true", help="two models, three conditions, once each, short windows")
    asked = parser.parse_args()
    print(describe(runtimes.load("onnxruntime")))
    if asked.run is not None:
        again(asked.run)
        return
    plan, rounds = SEARCH, ROUNDS
    if asked.quick:
        plan, rounds = replace(SEARCH, max_windows=3, min_window_s=0.05, gap_s=0.0), 1
    names = list(networks())[:: 9 if asked.quick else 1]
    meter, models = prepared(names, rounds)
    print(f"the unchanged network: {meter.baseline_ms:.2f} ms; truth from {rounds} processes\n", flush=True)
    print(f"{'condition':34}{'models':>8}{'median':>8}{'95 %':>8}{'worst':>8}{'covered':>9}{'tau':>6}{'bare loop':>11}")
    for condition, count, ours in CONDITIONS[:: 2 if asked.quick else 1]:
        with trainers(count, ours=ours):
            repeats = 1 if asked.quick else asked.repeats
            readings = [read(meter, model, plan) for _ in range(repeats) for model in models]
        report(condition, readings)
        if asked.out is not None:
            with asked.out.open("a") as file:
                file.writelines(f"{json.dumps(reading.row(condition))}\n" for reading in readings)


def networks() -> dict[str, tuple[float, bool]]:
    """Return by name how much each of ten networks is pruned, and whether it is in INT8."""
    return {
        f"{'INT8' if quantized else 'float'} −{ratio:.0%}": (ratio, quantized)
        for quantized in (False, True)
        for ratio in RATIOS
    }


def prepared(names: Sequence[str], rounds: int) -> tuple[ProcessMeter, list[Model]]:
    """Return a calibrated meter, and networks with their quiet truth."""
    torch.manual_seed(0)
    images = [(torch.randn(8, 1, 16, 16), torch.zeros(8, dtype=torch.long)) for _ in range(4)]
    task = Task(ResidualNet((192, 384), (2, 2), classes=10).eval(), images[0][0][:1], images, images)
    supplies, runtime = supplies_of(task), runtimes.load("onnxruntime")
    space = space_of(inspect(task.model, task.examples), runtime.capabilities, task)
    artefacts = {}
    for name in dict.fromkeys((next(iter(networks())), *names)):
        ratio, quantized = networks()[name]
        built = apply_candidate(task, uniform(space, ratio, quantized=quantized), supplies, epochs=0)
        artefacts[name] = runtime.convert(source_of(built, supplies))
    inputs = [x.numpy() for x in supplies.examples]
    meter = ProcessMeter(baseline=next(iter(artefacts.values())), runtime=runtime.name, inputs=inputs)
    meter = replace(meter, baseline_ms=meter.calibrate(ROUND).median_ms)
    truths = {name: meter.measure(artefacts[name], ROUND) for name in names}
    for _ in range(rounds - 1):
        truths = {name: truth.joined(meter.measure(artefacts[name], ROUND)) for name, truth in truths.items()}
    return meter, [Model(name, artefacts[name], truths[name]) for name in names]


def read(meter: ProcessMeter, model: Model, plan: Plan) -> Reading:
    """Measure a model under whatever load there is."""
    latency = meter.measure(model.artefact, plan)
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    network, inputs = folder / f"bare-{os.getpid()}.onnx", folder / f"bare-{os.getpid()}.npy"
    network.write_bytes(model.artefact)
    np.save(inputs, meter.inputs[0])
    said = subprocess.run([sys.executable, "-c", LOOP, network, inputs], capture_output=True, text=True, check=True)
    network.unlink()
    inputs.unlink()
    return Reading(model, latency, float(said.stdout))


@contextmanager
def trainers(count: int, *, ours: bool) -> Iterator[None]:
    """Train in so many processes; all of them do when this yields."""
    command = [sys.executable, "-c", TRAINER.format(ours=ours, parent=os.getpid())]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def report(condition: str, readings: Sequence[Reading]) -> None:
    """Print a line for the slow models, one for the fast ones."""
    by_model = {id(r.model): r.model for r in readings}
    medians = {key: statistics.median(r.latency.ratio for r in readings if id(r.model) == key) for key in by_model}
    tau = kendalltau([by_model[key].truth.ratio for key in medians], list(medians.values())).statistic
    groups = (f"from {SLOW_MS:g} ms", [r for r in readings if r.model.truth.median_ms >= SLOW_MS])
    for label, group in (groups, (f"below {SLOW_MS:g} ms", [r for r in readings if r not in groups[1]])):
        if not group:
            continue
        errors = [r.error for r in group]
        print(
            f"{condition + ', ' + label:34}{len({id(r.model) for r in group}):8}"
            f"{statistics.median(errors):8.1%}{np.percentile(errors, 95):8.1%}{max(errors):8.1%}"
            f"{statistics.mean(r.covered for r in group):9.0%}{tau:6.2f}"
            f"{statistics.median(r.bare_error for r in group):11.0%}",
            flush=True,
        )


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
