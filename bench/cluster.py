"""How much of a cluster's time goes into trials: simulated nodes, and trials of which each takes a second of sleep.

    python bench/cluster.py [--quick]

Every node is a process of Ray's on this machine, with a few CPUs by its own account. What is evaluated is a formula
after a pause, so that everything else that takes time is ours, or Ray's: to ask for a candidate, to hand it to a
worker, to take its outcome, to keep the front. Efficiency is trials × pause / (time × workers), from when all
workers are there until fewer trials are left than workers; how long workers take to be there, and how long the last
trials take, is told apart. Then the same is done while a node is killed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cloudpickle

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Outcome
from autocompress.profiles.profile import Profile
from autocompress.search.dispatch import RunContext
from autocompress.search.driver import Driver
from autocompress.search.options import Options
from autocompress.search.progress import Silent
from autocompress.search.samplers import create
from autocompress.search.samplers.initial_design import warm_start
from autocompress.search.workers.base import LostTrial, Result, Workers
from autocompress.search.workers.cluster import joined
from autocompress.search.workers.ray_session import environment
from autocompress.search.workers.start import workers_for
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

TARGET_MS = 4.0
LAYERS = 20


class Pausing:
    """Evaluates a formula after a pause; trials without a pause of their own end in the driver at once."""

    def __init__(self, pause_s: float) -> None:
        self.pause_s = pause_s
        self.problem = AnalyticEvaluator(LAYERS)

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Pause, then evaluate."""
        time.sleep(self.pause_s)
        return self.problem.evaluate(request)


@dataclass
class Watched:
    """Workers, and when each result came back."""

    workers: Workers
    interruptible: bool = False
    ended: list[float] = field(default_factory=list)
    lost: int = 0
    inside_s: float = 0.0

    def free(self) -> int:
        """Return how many requests can be begun."""
        return self.workers.free()

    def submit(self, request: Request) -> None:
        """Begin a request."""
        self.workers.submit(request)

    def wait(self, timeout_s: float) -> list[Result]:
        """Return what ended, and remember when."""
        began = time.monotonic()
        found = self.workers.wait(timeout_s)
        now = time.monotonic()
        self.inside_s += now - began
        self.lost += sum(isinstance(outcome, LostTrial) for _, outcome in found)
        self.ended += [now for _, outcome in found if not isinstance(outcome, LostTrial)]
        return found

    def blocked_reason(self) -> str:
        """Return what the workers wait for."""
        return self.workers.blocked_reason()

    def peak_bytes(self) -> int:
        """Return the most memory that a worker had."""
        return self.workers.peak_bytes()

    def withdraw(self) -> list[Request]:
        """Take back what was not begun."""
        return self.workers.withdraw()

    def abandon(self) -> list[Request]:
        """End everything."""
        return self.workers.abandon()


@contextmanager
def simulated(nodes: int, cpus: int) -> Iterator[Any]:
    """Start a head that trains nothing, and nodes that do."""
    from ray import cloudpickle as rays
    from ray.cluster_utils import Cluster

    for pickler in (cloudpickle, rays):
        pickler.register_pickle_by_value(sys.modules[__name__])
    with environment():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(nodes):
                cluster.add_node(num_cpus=cpus, wait=False)
            cluster.wait_for_nodes(120)
            yield cluster
        finally:
            cluster.shutdown()


def search(folder: Path, workers: Workers, trials: int) -> StudyStore:
    """Run a whole search: the analytic problem, the usual sampler and storage."""
    problem = AnalyticEvaluator(LAYERS)
    profile = Profile.from_dict(problem.profile())
    options = Options(target_ms=TARGET_MS, out=folder, trials=trials)
    with closing(RunDirectory(folder, {"study": "bench"})) as rundir:
        store = StudyStore(folder, None, "bench", problem.space, options.limits)
        with closing(store):
            store.study.sampler = create(
                options.sampler,
                space=problem.space,
                profile=profile,
                judge=store,
                seed=0,
                finished=0,
            )
            store.begin(warm_start(problem.space, profile, TARGET_MS))
            Driver(RunContext(options=options, rundir=rundir, workers=workers, epochs=1.0), store).run()
            states = Counter(trial.state.name for trial in store.study.get_trials(deepcopy=False))
            print("  trials by state: " + ", ".join(f"{count} {name}" for name, count in sorted(states.items())))
    return store


def measure(cluster: Any, trials: int, pause_s: float, *, kill: bool = False) -> None:
    """Run one search on a cluster, and print what became of the time."""
    options = Options(target_ms=TARGET_MS, out=Path("unused"), ray_address=cluster.address)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        joined(options, Silent()) as joint,
        workers_for(Pausing(pause_s), BARE, None, joint) as workers,
    ):
        assert joint is not None
        count = joint.cpus
        while workers.free() < count:
            time.sleep(0.1)
        ready = time.monotonic()
        watched = Watched(workers)
        if kill:
            victim = next(iter(cluster.worker_nodes))
            after = threading.Timer(trials * pause_s / count / 3, cluster.remove_node, (victim, False))
            after.start()
        search(Path(folder), watched, trials)
        if kill:
            after.join()
    evaluated = len(watched.ended)
    total = watched.ended[-1] - ready
    steady = watched.ended[: evaluated - count]  # until the last round, in which workers run out of trials
    efficiency = len(steady) * pause_s / ((steady[-1] - ready) * count)
    print(
        f"  {count} workers were there after {ready - began:.1f} s; {evaluated} evaluations of {pause_s:g} s, "
        f"{trials} trials in all, {watched.lost} lost; {total:.1f} s\n"
        f"  efficiency {efficiency:.1%} until the last round, {evaluated * pause_s / (total * count):.1%} with it; "
        f"the driver was busy for {1 - watched.inside_s / total:.0%} of the time"
    )


def main() -> None:
    """Print what a steady cluster does, and one that loses a node."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 nodes and 32 short trials: a smoke test")
    parser.add_argument("--nodes", type=int, help="simulated nodes (8)")
    parser.add_argument("--cpus", type=int, default=2, help="of each node (2)")
    parser.add_argument("--trials", type=int, help="trials of each search (320)")
    parser.add_argument("--pause", type=float, help="seconds that each trial takes (1)")
    asked = parser.parse_args()
    nodes = asked.nodes or (2 if asked.quick else 8)
    trials = asked.trials or (32 if asked.quick else 320)
    pause_s = asked.pause or (0.5 if asked.quick else 1.0)
    versions = ", ".join(f"{name} {version(name)}" for name in ("autocompress", "ray", "optuna"))
    print(f"{os.cpu_count()} cores here, load {os.getloadavg()[0]:.1f}; {versions}", flush=True)
    with simulated(nodes, asked.cpus) as cluster:
        print(f"{nodes} nodes with {asked.cpus} CPUs each", flush=True)
        measure(cluster, trials, pause_s)
        print("the same, and a node is killed after a third of the time", flush=True)
        measure(cluster, trials, pause_s, kill=True)


if __name__ == "__main__":
    main()
