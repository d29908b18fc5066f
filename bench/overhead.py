"""What the search itself costs: the driver's time for one trial, when so many are finished.

    python bench/overhead.py [--quick]

The problem has 20 groups and 20 layers, evaluated by formula, so all the time that is left is ours: to ask for a
candidate, to tell its outcome, to keep the front and its hypervolume. The journal is on disk.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Measurement, to_json
from autocompress.search.drive import Driver, Interrupts
from autocompress.search.front import objectives
from autocompress.search.limits import Limits
from autocompress.search.options import Options
from autocompress.search.profile import Profile
from autocompress.search.progress import Silent
from autocompress.search.rundir import RunDirectory
from autocompress.search.samplers import create
from autocompress.search.samplers.mutation import distributions
from autocompress.search.store import Store
from autocompress.search.workers import InlineWorkers

TARGET_MS = 4.0
TRIAL_S = 10.0
"""What a trial of a small network takes at least, to compare with."""

PARTS = ("ask", "tell", "front", "other")


class Clock:
    """Adds up the time that is spent in named parts."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys((*PARTS, "storage"), 0.0)

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Count the time inside the context for a part."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.spent[part] += time.perf_counter() - began

    def watch(self, owner: object, name: str, part: str) -> None:
        """Count the time in a method for a part."""
        method = getattr(owner, name)

        def timed(*args: object, **kwargs: object) -> object:
            with self.on(part):
                return method(*args, **kwargs)

        setattr(owner, name, timed)


def finished_trials(problem: AnalyticEvaluator, count: int, seed: int = 0) -> Iterator[FrozenTrial]:
    """Yield finished trials as a store would leave them; two thirds of them were cut for the target."""
    rng = random.Random(seed)
    for number in range(count):
        strength = rng.random()
        levels = {
            name: min(size - 1, int(rng.random() < strength) * rng.randrange(1, size)) if number else 0
            for name, size in problem.space.sizes.items()
        }
        candidate = problem.space.candidate(levels)
        target_ms = TARGET_MS if number else None
        outcome = problem.evaluate(Request(folder="", candidate=candidate, epochs=0, target_ms=target_ms))
        assert outcome.latency is not None
        measured = isinstance(outcome, Measurement)
        yield create_trial(
            state=TrialState.COMPLETE if measured else TrialState.PRUNED,
            values=list(objectives(outcome)) if isinstance(outcome, Measurement) else None,
            params=levels,
            distributions=distributions(problem.space),
            user_attrs={
                "candidate": candidate.to_json(),
                "outcome": to_json(outcome),
                "latency_ms": outcome.latency.median_ms,
                **({} if number else {"role": "baseline"}),
            },
            constraints={"latency": outcome.latency.high_ms / TARGET_MS - 1},
        )


def fill(folder: Path, problem: AnalyticEvaluator, count: int) -> None:
    """Write a study with so many finished trials."""
    store = Store(folder, None, "bench", problem.space, Limits(TARGET_MS))
    sync, os.fsync = os.fsync, lambda file: None  # not what is measured
    try:
        for trial in finished_trials(problem, count):
            store.study.add_trial(trial)
    finally:
        os.fsync = sync


def measure(folder: Path, problem: AnalyticEvaluator, count: int, trials: int, *, profile: bool) -> dict[str, float]:
    """Return milliseconds a trial for each part, on top of so many finished trials."""
    fill(folder, problem, count)
    rundir = RunDirectory(folder / "run", {"study": "bench"})
    store = Store(folder, None, "bench", problem.space, Limits(TARGET_MS))
    predict = Profile.from_dict(problem.profile()).predict_ms
    store.study.sampler = create(
        "mutation", space=problem.space, target_ms=TARGET_MS, seed=0, finished=count, predict=predict
    )
    driver = Driver(
        store,
        InlineWorkers(problem),
        Options(target_ms=TARGET_MS, out=rundir.path, trials=count + trials, workers=0),
        epochs=1.0,
        rundir=rundir,
        progress=Silent(),
        interrupts=Interrupts(),
        started=time.monotonic(),
    )
    clock = Clock()
    clock.watch(store, "ask", "ask")
    clock.watch(store, "tell", "tell")
    clock.watch(driver, "_tidy", "front")
    clock.watch(driver, "_show", "front")
    backend = store.study._storage
    assert isinstance(backend, JournalStorage)
    assert isinstance(backend._backend, JournalFileBackend)
    clock.watch(backend._backend, "append_logs", "storage")
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    began = time.perf_counter()
    driver.run()
    total = time.perf_counter() - began
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(30)
    rundir.close()
    clock.spent["other"] = total - sum(clock.spent[part] for part in ("ask", "tell", "front"))
    return {part: seconds / trials * 1e3 for part, seconds in {**clock.spent, "total": total}.items()}


def cpu() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10 and 100 finished trials only")
    parser.add_argument("--trials", type=int, default=20, help="trials to time at each point")
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    asked = parser.parse_args()
    problem = AnalyticEvaluator(20)
    versions = ", ".join(f"{name} {version(name)}" for name in ("autocompress", "optuna", "numpy"))
    load = os.getloadavg()[0]
    print(f"{cpu()} · {os.cpu_count()} cores · load {load:.1f} · Python {platform.python_version()} · {versions}")
    print(f"{len(problem.space.choices)} choices, mutation, journal on disk; milliseconds a trial\n")
    names = " ".join(f"{name:>8}" for name in ("finished", *PARTS, "total", "storage"))
    print(f"{names}   of {TRIAL_S:g} s")
    for count in (10, 100) if asked.quick else (10, 100, 1_000, 5_000):
        with tempfile.TemporaryDirectory() as folder:
            spent = measure(Path(folder), problem, count, asked.trials, profile=asked.profile)
        row = " ".join(f"{spent[part]:>8.1f}" for part in (*PARTS, "total", "storage"))
        print(f"{count:>8} {row}   {spent['total'] / 1e3 / TRIAL_S:.2%}", flush=True)
    print("\n`storage`, the writing of the journal, is part of ask and tell.")


if __name__ == "__main__":
    main()
