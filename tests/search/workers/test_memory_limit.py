"""A trial that needs more memory than it may is ended with its processes, and told of; nobody else is."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import psutil
import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.search.workers.base import LostTrial, Result
from autocompress.search.workers.memory_limit import MemoryLimited, died, watched
from autocompress.search.workers.ray_workers import RayWorkers
from autocompress.search.workers.start import workers_for
from autocompress.spaces.candidate import Candidate

MEGABYTE = 1 << 20
HOARD = "import time; x = b'x' * (600 << 20); print('full', flush=True); time.sleep(600)"


def own_bytes() -> int:
    """Return the memory of this process."""
    found = psutil.Process().memory_info()
    return int(found.rss) - int(found.shared)


def noticed(limit_bytes: float, seconds: float = 20.0) -> bool:
    """Tell whether an excess is noticed within some seconds."""
    over = threading.Event()
    with watched(limit_bytes, over.set):
        return over.wait(seconds)


def test_an_excess_is_noticed_and_less_is_not() -> None:
    """The limit lies between what the process has and what it has soon after."""
    limit = own_bytes() + 150 * MEGABYTE
    assert not noticed(limit, 2.0)
    hoard = b"x" * (300 * MEGABYTE)
    assert noticed(limit)
    del hoard


def test_descendants_count() -> None:
    """What a process starts has its memory on the process's account, until it ends."""
    limit = own_bytes() + 150 * MEGABYTE
    with subprocess.Popen([sys.executable, "-c", HOARD], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert noticed(limit)
        child.kill()
    assert not noticed(limit, 2.0)


def test_what_forks_share_counts_once() -> None:
    """Processes that load data are forks, and have their parent's memory without needing any."""
    hoard = b"x" * (300 * MEGABYTE)
    limit = own_bytes() + 150 * MEGABYTE
    children = [multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)) for _ in range(2)]
    for child in children:
        child.start()
    try:
        assert not noticed(limit, 2.0)
    finally:
        for child in children:
            child.kill()
            child.join()
    del hoard


class Hoarding:
    """Takes memory in a process of its own where its request's folder says so."""

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate, or hoard."""
        folder = Path(request.folder)
        if folder.name == "hoard":
            child = subprocess.Popen([sys.executable, "-c", HOARD])
            folder.with_name("pids").write_text(f"{os.getpid()} {child.pid}")
            child.wait()
        return AnalyticEvaluator(3).evaluate(request)


@pytest.fixture
def workers() -> Iterator[RayWorkers]:
    """Start a worker that may have little more than it has anyway."""
    from ray import cloudpickle as rays

    for pickler in (cloudpickle, rays):
        pickler.register_pickle_by_value(sys.modules[__name__])
    limited = MemoryLimited(Hoarding(), 600 * MEGABYTE)
    with workers_for(limited, BARE, 1) as workers:
        assert isinstance(workers, RayWorkers)
        yield workers


def ended(workers: RayWorkers, folder: str) -> Result:
    """Evaluate a request."""
    workers.submit(Request(folder=folder, candidate=Candidate(), epochs=0, timeout_s=60))
    while not (results := workers.wait(0.5)):
        pass
    return results[0]


def gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_worker_over_the_limit_ends_with_its_processes(workers: RayWorkers, tmp_path: Path) -> None:
    """Its trial is infeasible with the reason; the next one has a worker, and no note of the last."""
    _, outcome = ended(workers, f"{tmp_path}/hoard")
    reason = "it needed more than 629 MB of memory (--trial-memory gives more)"
    assert outcome == Infeasible(reason=reason, rung="memory")
    pids = list(map(int, (tmp_path / "pids").read_text().split()))
    end = time.monotonic() + 30  # the system takes a moment to take so much memory back
    while not all(gone(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert isinstance(ended(workers, "trials/00001")[1], tuple)


def test_what_ray_ended_for_want_of_memory_is_told_from_other_deaths() -> None:
    """It is tried again, with the reason and the option that spares the node."""
    from ray.exceptions import ActorDiedError, OutOfMemoryError

    request = Request(folder="trials/00001", candidate=Candidate(), epochs=0)
    why = "its node ran out of memory, and Ray ended it (--trial-memory limits each trial)"
    assert died(request, OutOfMemoryError("killed")) == LostTrial(why)
    assert died(request, ActorDiedError()) == LostTrial("its worker died (ActorDiedError)")
