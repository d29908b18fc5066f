"""Runs a study from nothing and compares its front with uniform choices, trial by trial, at equal fine-tuning.

    python bench/study.py digits --target-latency 5ms --trials 32
    python bench/study.py fashion_mnist --target-latency 3ms --trials 40 --data-dir DIR

Prints the environment, the table of the run, and for each uniform candidate whether a model of the front dominates it:
as accurate or better, and as fast or faster, and better in one of the two. Both sides are taken as their trials left
them, after the same number of training steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from common.environment import describe
from rich.console import Console

from autocompress.compressors.pipeline import space_of
from autocompress.evaluators import runtimes
from autocompress.pareto.front import select
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import Model
from autocompress.pareto.objectives import front_hypervolume
from autocompress.profiles.profile import Profile
from autocompress.reports.terminal_table import render
from autocompress.search.options import Options
from autocompress.search.progress import Lines, duration
from autocompress.search.samplers.initial_design import GRID
from autocompress.search.study_run import run
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.uniform import uniform
from autocompress.storage.study_store import StudyStore
from autocompress.studies import loading
from autocompress.studies.names import study_name
from autocompress.units import parse_latency


def main() -> None:
    """Parse the command line, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="digits")
    parser.add_argument("--target-latency", default="5ms")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, help="keep the run directory here")
    parser.add_argument("--quick", action="store_true", help="few trials, little training: a smoke test")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = asked.out or Path(scratch, "run")
        quick = {"trials": 4, "epochs": 0.1, "final_epochs": 0.1} if asked.quick else {"trials": asked.trials}
        options = Options(target_ms=parse_latency(asked.target_latency), out=out, **quick)
        bench(asked.study, asked.data_dir, options)


def bench(study: str, data_dir: Path | None, options: Options) -> None:
    """Run a study and print everything."""
    console = Console(width=100)
    console.print(describe(runtimes.load(options.runtimes[0])))
    started = time.monotonic()
    progress = Lines(lambda text: print(text, flush=True))
    front = run(study, lambda: loading.load(study, data_dir=data_dir), options, progress)
    console.print(
        f"\n{options.trials} trials, {options.workers} workers, {duration(time.monotonic() - started)} in all\n"
    )
    console.print(render(front, str(options.out)))
    profile = Profile.from_dict(json.loads((options.out / "profile.json").read_text())["profile"])
    task, served = loading.load(study, data_dir=data_dir), runtimes.load(options.runtimes[0])
    space = profile.space(space_of(profile.network, served.capabilities, task))
    models = StudyStore(options.out, None, study_name(study), space, options.limits).models()
    grid = {uniform(space, ratio, quantized=quantized) for ratio in (0.0, *GRID) for quantized in (True, False)}
    compare(models, grid, options.target_ms, console)


def compare(models: list[Model], grid: set[Candidate], target_ms: float, console: Console) -> None:
    """Print how the front of the searched trials stands to the uniform ones."""
    baseline = next(m for m in models if m.role == "baseline")
    even = [m for m in models if m.candidate in grid and m is not baseline]
    searched = [m for m in models if m.candidate not in grid]
    front = [searched[i] for i in select([m.measurement for m in searched], Limits(target_ms))]
    console.print(f"\n{len(even)} uniform candidates, against the front of the searched ones:")
    for model in sorted(even, key=lambda m: m.measurement.latency.median_ms):
        better = [other.id for other in front if dominates(other, model)]
        name = model.role if model.role != "front" else model.id
        measured = model.measurement
        verdict = f"dominated by {', '.join(better)}" if better else "not dominated"
        console.print(f"  {name:20} {measured.accuracy:.2%} at {measured.latency.median_ms:.2f} ms: {verdict}")
    for name, group in (("uniform", even), ("searched", searched), ("all", even + searched)):
        meeting = [m.measurement for m in group if m.measurement.latency.meets(target_ms)]
        volume = front_hypervolume(meeting, baseline.measurement, target_ms)
        console.print(f"  hypervolume of {name} candidates: {volume:.4f}")


def dominates(a: Model, b: Model) -> bool:
    """Return whether a is as accurate and as fast as b, and better in one of the two."""
    ours = (-a.measurement.accuracy, a.measurement.latency.median_ms)
    theirs = (-b.measurement.accuracy, b.measurement.latency.median_ms)
    return all(x <= y for x, y in zip(ours, theirs, strict=True)) and ours != theirs


if __name__ == "__main__":
    main()
