"""Trials per minute for several numbers of workers and threads on this machine, and simulated for more workers.

    python bench/workers.py [--study digits] [--workers 1 2 4] [--threads 1 2] [--rounds 3]

The same uniform and mixed candidates climb the product's ladder with its meter on Ray's workers, each again and again
with other seeds, without a target, so that all of them are trained. The clock runs from the first submission to the
last result, when the workers have started.

The simulation has the stages that the trials of one worker took: building, timing, and training with scoring. One model
is timed at a time. Meanwhile the trainers of a machine pause; a device elsewhere lets them train. It leaves out that
workers slow each other down by sharing memory, and the search itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trial_seconds import candidates_of

from autocompress.evaluators import runtimes
from autocompress.evaluators.cgroup import available_cores
from autocompress.evaluators.evaluator import Host, Request
from autocompress.evaluators.ladder.ladder import Ladder
from autocompress.evaluators.measurement import Measurement
from autocompress.evaluators.meters.latency import PROBE
from autocompress.profiles.baseline import export_baseline
from autocompress.profiles.setup import set_up
from autocompress.search.options import Options
from autocompress.search.prepare import baseline_meter
from autocompress.search.workers.base import Workers
from autocompress.search.workers.start import workers_for
from autocompress.studies import loading

Stages = tuple[float, float, float]
"""Seconds of a trial before it is timed, while it is timed, and after that."""

SIMULATED = (1, 2, 4, 8, 16, 32, 64)


def simulated(trials: Sequence[Stages], workers: int, *, pauses: bool = True) -> float:
    """Return how many trials per minute workers finish that take these trials in turns.

    Args:
        trials: the stages of the trials; there should be many more trials than workers.
        workers: the number of workers.
        pauses: whether the other workers pause while one is timed.
    """
    waiting = list(reversed(trials))
    left = [list(waiting.pop()) for _ in range(min(workers, len(waiting)))]
    clock, holder = 0.0, None
    while left:
        if holder is None:
            holder = next((trial for trial in left if trial[0] <= 0 and trial[1] > 0), None)
        moving = [(trial, 1) for trial in left if trial is holder]
        if holder is None or not pauses:
            moving += [(trial, 0 if trial[0] > 0 else 2) for trial in left if trial[0] > 0 or trial[1] <= 0]
        step = min(trial[stage] for trial, stage in moving)
        clock += step
        for trial, stage in moving:
            trial[stage] = trial[stage] - step if trial[stage] > step else 0.0
        if holder is not None and holder[1] <= 0:
            holder = None
        ended = [trial for trial in left if not any(trial)]
        left = [trial for trial in left if any(trial)]
        left += [list(waiting.pop()) for _ in ended if waiting]
    return 60 * len(trials) / clock


@dataclass(frozen=True)
class Study:
    """A ladder whose candidates can be evaluated, with its meter."""

    ladder: Ladder
    host: Host
    requests: list[Request]


@contextmanager
def prepared(name: str, data_dir: Path | None, rounds: int, epochs: float | None) -> Iterator[Study]:
    """Set a study up in a temporary folder, and time its baseline briefly."""
    runtime = runtimes.load("onnxruntime")
    setup = set_up(loading.load(name, data_dir=data_dir), [runtime])
    with tempfile.TemporaryDirectory() as folder:
        options = Options(target_ms=1.0, out=Path(folder))
        artefact = export_baseline(setup.task, runtime, setup.supplies)[1]
        ms = baseline_meter(runtime, artefact, setup.supplies, options).calibrate(PROBE).median_ms
        meter = baseline_meter(runtime, artefact, setup.supplies, options, (ms, 0.0))
        requests = [
            Request(
                folder=f"trials/{seed}-{place}",
                candidate=candidate,
                epochs=setup.task.epochs if epochs is None else epochs,
                seed=seed,
            )
            for seed in range(rounds)
            for place, candidate in enumerate(candidates_of(setup.space).values())
        ]
        ladder = Ladder(setup.task, setup.supplies, [runtime])
        yield Study(ladder, Host(folder=Path(folder), meters={"": meter}), requests)


def evaluated(workers: Workers, requests: Sequence[Request]) -> list[Measurement]:
    """Evaluate requests on workers; return what was measured."""
    waiting, found, ended = list(reversed(requests)), [], 0
    while ended < len(requests):
        while waiting and workers.free():
            workers.submit(waiting.pop())
        for _, outcome in workers.wait(0.2):
            ended += 1
            if isinstance(outcome, tuple):
                found.append(outcome[0])
            else:
                print(f"  not measured: {outcome}", flush=True)
    return found


def stages_of(found: Measurement) -> Stages:
    """Return the stages of a trial."""
    seconds = dict(found.seconds)
    before, timed = seconds.pop("build", 0.0), seconds.pop("latency", 0.0)
    return before, timed, sum(seconds.values())


def main() -> None:
    """Sweep, simulate, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads of each worker")
    parser.add_argument("--rounds", type=int, default=3, help="trials of each candidate for each number of workers")
    parser.add_argument("--quick", action="store_true", help="one worker, few steps of training: a smoke test")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of this process; workers set their own
    from common.environment import describe

    print(f"{asked.study}; {describe()}, {available_cores()} for workers\n")
    print(f"{'workers':>7}{'threads':>9}{'trials':>8}{'per minute':>12}   seconds: build, timing, training and scores")
    counts, threads = ([1], [1]) if asked.quick else (asked.workers, asked.threads)
    stages: list[Stages] = []
    with prepared(asked.study, asked.data_dir, 1 if asked.quick else asked.rounds, 0.1 if asked.quick else None) as it:
        requests = it.requests[:2] if asked.quick else it.requests
        for many in threads:
            for count in counts:
                with workers_for(it.ladder, it.host, count, threads=many) as workers:
                    evaluated(workers, requests[:1] * count)  # they have started, and what is compiled once is there
                    began = time.monotonic()
                    found = evaluated(workers, requests)
                    speed = 60 * len(requests) / (time.monotonic() - began)
                each = [stages_of(one) for one in found]
                mean = "  ".join(f"{sum(stage) / len(each):6.1f}" for stage in zip(*each, strict=True))
                print(f"{count:>7}{many:>9}{len(requests):>8}{speed:>12.2f}   {mean}", flush=True)
                stages = stages or each
    print(f"\n{'simulated':>9}{'pausing':>12}{'device elsewhere':>18}   trials per minute, by workers of one thread")
    for count in SIMULATED:
        trials = stages * max(1, 20 * count // len(stages))
        here, elsewhere = (simulated(trials, count, pauses=pauses) for pauses in (True, False))
        print(f"{count:>9}{here:>12.2f}{elsewhere:>18.2f}")


if __name__ == "__main__":
    main()
