"""What the search itself costs: the driver's time for one trial, when so many are finished.

    python bench/overhead.py [--quick] [--storage postgresql://user@host/empty]

The problem has 20 groups and 20 layers, evaluated by formula, so all the time that is left is ours: to ask for a
candidate, to tell its outcome, to keep the front and its hypervolume. The sampler's share of asking is told apart.
The journal is on disk. Then how long a study takes to resume: from opening it to the first trial.
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
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible, Outcome, Window, representative
from autocompress.evaluators.outcome_json import to_json
from autocompress.evaluators.raw_times import packed, thinned
from autocompress.pareto.limits import Limits
from autocompress.pareto.objectives import objectives
from autocompress.profiles.profile import Profile
from autocompress.search.dispatch import RunContext
from autocompress.search.driver import Driver
from autocompress.search.options import Options
from autocompress.search.samplers import create
from autocompress.search.workers.inline import InlineWorkers
from autocompress.storage.backends import open_database
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore
from autocompress.storage.trial_queue import distributions

TARGET_MS = 4.0
TRIAL_S = 10.0
"""What a trial of a small network takes at least, to compare with."""

PARTS = ("sampler", "ask", "tell", "front", "other")

WINDOWS, RUNS = 12, 150
"""Windows of a trial's latency and runs in each: what a network of a millisecond has."""


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
        outcome = timed(problem.evaluate(Request(folder="", candidate=candidate, epochs=0, target_ms=target_ms)), rng)
        latency = representative(outcome).latency
        assert latency is not None
        measured = isinstance(outcome, tuple)
        yield create_trial(
            state=TrialState.COMPLETE if measured else TrialState.PRUNED,
            values=list(objectives(outcome[0])) if isinstance(outcome, tuple) else None,
            params=levels,
            distributions=distributions(problem.space),
            user_attrs={
                "candidate": candidate.to_json(),
                "readings": packed(outcome),
                "latency_ms": latency.median_ms,
                "outcome": to_json(thinned(outcome)),
                **({} if number else {"role": "baseline"}),
            },
            constraints={"latency": latency.high_ms / TARGET_MS - 1},
        )


def timed(outcome: Outcome, rng: random.Random) -> Outcome:
    """Return an outcome with as many clock readings as a real one."""
    latency = representative(outcome).latency
    assert latency is not None
    window = latency.windows[1]
    windows = tuple(
        Window(
            baseline_ns=tuple(round(window.baseline_ns[0] / 100 * rng.gauss(1, 0.03)) for _ in range(RUNS)),
            candidate_ns=tuple(round(window.candidate_ns[0] / 100 * rng.gauss(1, 0.03)) for _ in range(RUNS)),
        )
        for _ in range(WINDOWS)
    )
    latency = replace(latency, windows=windows, processes=3)
    if isinstance(outcome, Infeasible):
        return replace(outcome, latency=latency)
    return tuple(replace(each, latency=latency) for each in outcome)


def fill(folder: Path, problem: AnalyticEvaluator, count: int, url: str | None = None) -> None:
    """Write a study with so many finished trials; its journal has the lines that asking and telling leave."""
    store = StudyStore(folder, open_database(url) if url else None, "bench", problem.space, Limits(TARGET_MS))
    storage, study_id = store.study._storage, store.study._study_id
    sync, os.fsync = os.fsync, lambda fd: None  # not what is measured
    try:
        for trial in finished_trials(problem, count):
            if url is not None:
                store.study.add_trial(trial)
                continue
            trial_id = storage.create_new_trial(study_id)
            for name, kind in trial.distributions.items():
                storage.set_trial_param(trial_id, name, kind.to_internal_repr(trial.params[name]), kind)
            for name, value in trial.user_attrs.items():
                storage.set_trial_user_attr(trial_id, name, value)
            for name, value in trial.system_attrs.items():
                storage.set_trial_system_attr(trial_id, name, value)
            storage.set_trial_state_values(trial_id, trial.state, trial.values)
        store.study.set_user_attr("begun", True)
    finally:
        os.fsync = sync
        store.close()


def sampled(store: StudyStore, problem: AnalyticEvaluator, count: int) -> None:
    """Give a study its sampler."""
    profile = Profile.from_dict(problem.profile())
    store.study.sampler = create("surrogate", space=problem.space, profile=profile, judge=store, seed=0, finished=count)


def resume(folder: Path, problem: AnalyticEvaluator, url: str | None) -> tuple[float, float]:
    """Return the seconds, and those of this process's CPU, from opening a study to its next trial."""
    began, cpu_s = time.perf_counter(), time.process_time()
    store = StudyStore(folder, open_database(url) if url else None, "bench", problem.space, Limits(TARGET_MS))
    sampled(store, problem, store.count())
    store.begin([])
    store.ask()
    store.found.front()
    spent = time.perf_counter() - began, time.process_time() - cpu_s
    store.close()
    return spent


def measure(folder: Path, problem: AnalyticEvaluator, count: int, trials: int, *, profile: bool) -> dict[str, float]:
    """Return milliseconds a trial for each part, on top of so many finished trials."""
    fill(folder, problem, count)
    rundir = RunDirectory(folder / "run", {"study": "bench"})
    store = StudyStore(folder, None, "bench", problem.space, Limits(TARGET_MS))
    sampled(store, problem, count)
    options = Options(target_ms=TARGET_MS, out=rundir.path, trials=count + trials, workers=0)
    driver = Driver(RunContext(options=options, rundir=rundir, workers=InlineWorkers(problem), epochs=1.0), store)
    store.found.front()  # what going on with a study costs is told apart
    clock = Clock()
    clock.watch(store.study.sampler, "sample_relative", "sampler")
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
    store.close()
    clock.spent["ask"] -= clock.spent["sampler"]
    clock.spent["other"] = total - sum(clock.spent[part] for part in ("sampler", "ask", "tell", "front"))
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
    parser.add_argument("--storage", help="an empty database, in which the study is resumed too")
    asked = parser.parse_args()
    problem = AnalyticEvaluator(20)
    versions = ", ".join(f"{name} {version(name)}" for name in ("autocompress", "optuna", "numpy"))
    load = os.getloadavg()[0]
    print(f"{cpu()} · {os.cpu_count()} cores · load {load:.1f} · Python {platform.python_version()} · {versions}")
    print(f"{len(problem.space.choices)} choices, surrogate, journal on disk; milliseconds a trial\n")
    names = " ".join(f"{name:>8}" for name in ("finished", *PARTS, "total", "storage"))
    print(f"{names}   of {TRIAL_S:g} s")
    counts = (10, 100) if asked.quick else (10, 100, 1_000, 5_000)
    resumed = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            spent = measure(Path(folder), problem, count, asked.trials, profile=asked.profile)
            resumed.append(("journal", count, *resume(Path(folder), problem, None)))
        row = " ".join(f"{spent[part]:>8.1f}" for part in (*PARTS, "total", "storage"))
        print(f"{count:>8} {row}   {spent['total'] / 1e3 / TRIAL_S:.2%}", flush=True)
    print("\n`storage`, the writing of the journal, is part of ask and tell.\n")
    if asked.storage:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder), problem, counts[-1], asked.storage)
            resumed.append(("database", counts[-1], *resume(Path(folder), problem, asked.storage)))
    for storage, count, seconds, cpu_s in resumed:
        print(f"a study of {count:>5} trials in a {storage:>8} resumes after {seconds:5.2f} s ({cpu_s:5.2f} s of CPU)")


if __name__ == "__main__":
    main()
