"""Which sampler finds most: hypervolume after so many trials of an analytic problem, medians over seeds.

    python bench/search.py [--quick]

The problem is a chain of layers, each with a pruning ratio and bits of its own; what a search knows of the damages
beforehand is wrong by a factor of two, as sensitivities of real networks are. All samplers share the warm start.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Measurement
from autocompress.search.drive import Driver, Interrupts
from autocompress.search.front import front_hypervolume
from autocompress.search.limits import Limits
from autocompress.search.options import SAMPLERS, Options
from autocompress.search.profile import Profile
from autocompress.search.progress import Silent
from autocompress.search.rundir import RunDirectory
from autocompress.search.samplers import create
from autocompress.search.store import Store, outcome
from autocompress.search.warmstart import warm_start
from autocompress.search.workers import InlineWorkers
from autocompress.spaces.candidate import Candidate

TARGET_MS = 4.0


def volumes(problem: AnalyticEvaluator, sampler: str, seed: int, at: Sequence[int]) -> list[float]:
    """Return the hypervolume that one search has after so many trials."""
    profile = Profile.from_dict(problem.profile())
    with tempfile.TemporaryDirectory() as folder:
        rundir = RunDirectory(Path(folder), {"study": "bench"})
        store = Store(rundir.path, None, "bench", problem.space, Limits(TARGET_MS))
        store.study.sampler = create(
            sampler, space=problem.space, target_ms=TARGET_MS, seed=seed, finished=0, predict=profile.predict_ms
        )
        store.begin(warm_start(problem.space, profile, TARGET_MS))
        Driver(
            store,
            InlineWorkers(problem),
            Options(target_ms=TARGET_MS, out=rundir.path, trials=max(at), workers=0),
            epochs=1.0,
            rundir=rundir,
            progress=Silent(),
            interrupts=Interrupts(),
            started=time.monotonic(),
        ).run()
        rundir.close()
        outcomes = [outcome(trial) for trial in sorted(store.finished(), key=lambda t: t.number)]
    baseline = problem.evaluate(Request(folder="", candidate=Candidate(), epochs=0))
    assert isinstance(baseline, Measurement)
    found = []
    for count in at:
        first = [o for o in outcomes[:count] if isinstance(o, Measurement) and o.latency.meets(TARGET_MS)]
        found.append(front_hypervolume(first, baseline, TARGET_MS))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed and few trials")
    parser.add_argument("--length", type=int, default=20, help="layers of the chain; there are twice as many choices")
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    at = (20, 30) if asked.quick else (20, 50, 100, 200)
    seeds = range(1 if asked.quick else asked.seeds)
    problem = AnalyticEvaluator(asked.length)
    versions = ", ".join(f"{name} {version(name)}" for name in ("autocompress", "optuna", "numpy"))
    print(f"{os.cpu_count()} cores · Python {platform.python_version()} · {versions}")
    print(f"{len(problem.space.choices)} choices; hypervolume after so many trials, medians of {len(seeds)} seeds\n")
    print(f"{'sampler':>10} " + " ".join(f"{count:>7}" for count in at))
    for sampler in SAMPLERS:
        rows = [volumes(problem, sampler, seed, at) for seed in seeds]
        print(f"{sampler:>10} " + " ".join(f"{statistics.median(column):>7.4f}" for column in zip(*rows, strict=True)))


if __name__ == "__main__":
    main()
