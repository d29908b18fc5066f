"""Which sampler finds most: hypervolume after so many trials over the best there is, medians over seeds.

    python bench/search.py [--quick] [--families additive …] [--samplers surrogate …] [--pending 1 8] [--trials 50 100]

The families are the imaginary ones of ``common/problems.py``, whose best front ``common/oracle.py`` finds, and the
``recorded`` one: candidates of Fashion-MNIST that were measured for real, all of which together are the best there is;
each seed has another target there. All samplers share the warm start. Hypervolumes of imaginary problems use the
true values of what was found to meet the target. With several pending trials, each is asked for while the others run,
which end in any order.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common.environment import describe
from common.oracle import best_volume
from common.problems import FAMILIES, TARGET_MS, Problem
from common.recorded import Pooled, RecordedProblem

from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Measurement
from autocompress.pareto.dominance import hypervolume
from autocompress.pareto.limits import Limits
from autocompress.pareto.objectives import front_hypervolume
from autocompress.profiles.profile import Profile
from autocompress.search.options import SAMPLERS
from autocompress.search.samplers import create
from autocompress.search.samplers.initial_design import warm_start
from autocompress.spaces.candidate import Candidate
from autocompress.storage.study_store import PendingTrial, StudyStore

RECORDED = "recorded"
TARGETS = (0.06, 0.075, 0.09, 0.11, 0.13)
"""Of the seeds of the recorded problem, as shares of the unchanged network's latency."""

QUICK_FAMILIES, QUICK_GENERATIONS = ("additive", RECORDED), 50


@dataclass(frozen=True)
class Run:
    """One search.

    Attributes:
        family: of the problem.
        sampler: its name.
        seed: of the problem and of the search.
        pending: how many trials run at a time.
        at: numbers of trials after which the hypervolume is taken.
        quick: whether the best front is looked for in a hurry.

    """

    family: str
    sampler: str
    seed: int
    pending: int
    at: tuple[int, ...]
    quick: bool


@dataclass(frozen=True)
class Result:
    """What a search found: shares of the best hypervolume, and the median milliseconds of asking for a candidate."""

    shares: tuple[float, ...]
    ask_ms: float


def search(run: Run) -> Result:
    """Run a search to its end."""
    problem = RecordedProblem() if run.family == RECORDED else Problem(run.family, run.seed)
    profile = Profile.from_dict(problem.profile())
    target_ms = TARGETS[run.seed % len(TARGETS)] * profile.baseline_ms if run.family == RECORDED else TARGET_MS
    with tempfile.TemporaryDirectory() as folder:
        store = StudyStore(Path(folder), None, "bench", problem.space, Limits(target_ms))
        sampler = create(run.sampler, space=problem.space, profile=profile, judge=store, seed=run.seed, finished=0)
        starts = warm_start(problem.space, profile, target_ms)
        if isinstance(problem, RecordedProblem):
            sampler, starts = Pooled(sampler, problem), problem.starts(starts)
        store.study.sampler = sampler
        store.begin(starts)
        found, asking_s = _played(run, problem, store, target_ms)
        store.close()
    return Result(
        tuple(_share(run, problem, found[:count], target_ms) for count in run.at), 1e3 * statistics.median(asking_s)
    )


def _played(
    run: Run, problem: Problem | RecordedProblem, store: StudyStore, target_ms: float
) -> tuple[list[tuple[Candidate, Measurement | None]], list[float]]:
    """Return candidates in the order in which they ended, None for those that were cut; and what each ask took."""
    rng = np.random.default_rng(run.seed)
    found: list[tuple[Candidate, Measurement | None]] = []
    running: list[PendingTrial] = []
    asking_s: list[float] = []
    while len(found) < max(run.at):
        while len(running) < run.pending and len(found) + len(running) < max(run.at):
            began = time.perf_counter()
            running.append(store.ask())
            asking_s.append(time.perf_counter() - began)
        asked = running.pop(int(rng.integers(len(running))))
        most_ms = None if asked.role else target_ms
        outcome = problem.evaluate(Request(folder="", candidate=asked.candidate, epochs=1, target_ms=most_ms))
        store.tell(asked.number, outcome)
        found.append((asked.candidate, outcome[0] if isinstance(outcome, tuple) else None))
    return found, asking_s[len(asking_s) // 2 :]


def _share(
    run: Run,
    problem: Problem | RecordedProblem,
    found: Sequence[tuple[Candidate, Measurement | None]],
    target_ms: float,
) -> float:
    """Return the hypervolume of what meets the target over the best there is."""
    meeting = [(candidate, m) for candidate, m in found if m is not None and m.latency.meets(target_ms)]
    if isinstance(problem, RecordedProblem):
        whole = [problem.evaluate(Request(folder="", candidate=candidate, epochs=1)) for candidate in problem.pool]
        best = [m[0] for m in whole if isinstance(m, tuple) and m[0].latency.meets(target_ms)]
        volumes = [front_hypervolume(each, problem.baseline, target_ms) for each in ([m for _, m in meeting], best)]
        return volumes[0] / volumes[1]
    if not meeting:
        return 0.0
    levels = np.concatenate([problem.levels(candidate) for candidate, _ in meeting])
    generations = {"generations": QUICK_GENERATIONS} if run.quick else {}
    best_one = best_volume(run.family, run.seed, target_ms, **generations)
    return hypervolume(problem.box(levels, target_ms), np.ones(3)) / best_one


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="two families, one seed, few trials, the best front in a hurry"
    )
    parser.add_argument("--families", nargs="+", choices=[*FAMILIES, RECORDED])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=SAMPLERS)
    parser.add_argument("--pending", nargs="+", type=int, default=[1, 8], help="trials at a time")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", nargs="+", type=int, help="after how many trials of imaginary families")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="searches at a time")
    asked = parser.parse_args()
    seeds = range(1 if asked.quick else asked.seeds)
    families = asked.families or (QUICK_FAMILIES if asked.quick else (*FAMILIES, RECORDED))
    print(describe(), flush=True)
    print(
        f"shares of the best hypervolume, medians of {len(seeds)} seeds (least–most); milliseconds of the later asks\n"
    )
    with ProcessPoolExecutor(asked.jobs) as pool:
        for family, pending in itertools.product(families, asked.pending):
            usual = (20, 30) if asked.quick else (20, 30, 40) if family == RECORDED else (50, 100, 200)
            at = usual if family == RECORDED else tuple(asked.trials or usual)  # it has few candidates
            print(f"{family}, {pending} at a time: after {', '.join(map(str, at))} trials", flush=True)
            for sampler in asked.samplers:
                runs = [Run(family, sampler, seed, pending, at, asked.quick) for seed in seeds]
                results = list(pool.map(search, runs))
                columns = zip(*(result.shares for result in results), strict=True)
                cells = [f"{statistics.median(c):.3f} ({min(c):.2f}–{max(c):.2f})" for c in columns]
                ask_ms = statistics.median(result.ask_ms for result in results)
                print(f"  {sampler:>10} {'  '.join(cells)} {ask_ms:>7.0f} ms", flush=True)


if __name__ == "__main__":
    main()
