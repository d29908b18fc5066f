"""Where candidates are evaluated: one contract for this process and for Ray's, and what comes of those that die."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import psutil
import pytest
import torch
from torch import nn

from autocompress.errors import InfeasibleError, UsageError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.device_lock import exclusive, training
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Latency, Outcome
from autocompress.evaluators.meters.latency import SEARCH, Calibration, Plan
from autocompress.evaluators.runtime import Kernel
from autocompress.search.workers import ray_workers as module
from autocompress.search.workers.base import LostTrial, Result, Workers
from autocompress.search.workers.inline import InlineWorkers
from autocompress.search.workers.ray_workers import RayWorkers
from autocompress.search.workers.start import pickled, workers_for
from autocompress.spaces.candidate import Candidate
from autocompress.studies.task import Task

T = TypeVar("T")

PROBLEM = AnalyticEvaluator(3)
CANDIDATES = [candidate for candidate, _ in PROBLEM.everything()]


SLOW_S = 4.0
"""Seconds that a measurement takes for which others wait."""


class Refusing:
    """A meter that can measure nothing."""

    def calibrate(self, plan: Plan = SEARCH, *, timeout_s: float | None = None) -> Calibration:
        """Refuse."""
        raise NotImplementedError("workers do not calibrate")

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Refuse, and tell the priority of the process."""
        raise InfeasibleError(f"the runtime refuses {artefact!r} at niceness {os.nice(0)}", rung="latency")

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return a byte for each of the file's, and thousands for the priority of the process; take long on demand."""
        if artefact == b"slow":
            with exclusive("cpu"):  # as what is timed has it
                time.sleep(SLOW_S)
        return 1000 * os.nice(0) + len(artefact)

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        """Refuse."""
        raise InfeasibleError(f"{runtime} counts no joules at niceness {os.nice(0)}", rung="energy")

    def kernels(self, artefact: bytes, *, runtime: str | None = None) -> Sequence[Kernel]:
        """End the process, as a runtime may."""
        os._exit(1)


REFUSING = Host(meters={"": Refusing()})


class Scripted:
    """Does what the last part of a request's folder says."""

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate, hang, fail or measure."""
        match Path(request.folder).name:
            case "hang":
                Path(request.folder).with_name("pid").write_text(str(os.getpid()))
                time.sleep(3600)
            case "waits":
                with training():
                    host.meters[""].memory(b"slow")
            case "defect":
                raise ZeroDivisionError("a defect")
            case "costs":
                memory_bytes = host.meters[""].memory(b"four")
                try:
                    host.meters[""].energy(b"four", runtime="sundial")
                except InfeasibleError as error:
                    return Infeasible(reason=error.reason, rung=error.rung, memory_bytes=memory_bytes)
            case "refused" | "niceness" as script:
                try:
                    host.meters[""].measure(b"bytes", SEARCH)
                except InfeasibleError as error:
                    prefix = f"trains at niceness {os.nice(0)}, " if script == "niceness" else ""
                    return Infeasible(reason=prefix + error.reason, rung=error.rung)
        return AnalyticEvaluator(3).evaluate(request)


def request_for(folder: str, candidate: Candidate | None = None, timeout_s: float = 60.0) -> Request:
    """Return a request."""
    return Request(folder=folder, candidate=candidate or Candidate(), epochs=0, timeout_s=timeout_s)


def until(ask: Callable[[], T], *, seconds: float = 240.0) -> T:
    """Return the first true answer."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return answer


def results(workers: Workers, count: int) -> list[Result]:
    """Wait for so many results."""
    found: list[Result] = []

    def enough() -> bool:
        found.extend(workers.wait(0.5))
        return len(found) >= count

    until(enough)
    return found


def idle(workers: Workers, count: int = 2) -> None:
    """Wait until so many workers are idle."""
    until(lambda: workers.free() == count)


@pytest.fixture(scope="module")
def processes() -> Iterator[RayWorkers]:
    """Start Ray and two worker processes once; this module's classes travel by value."""
    from ray import cloudpickle as rays

    for pickler in (cloudpickle, rays):
        pickler.register_pickle_by_value(sys.modules[__name__])
    with workers_for(Scripted(), REFUSING, 2) as workers:
        assert isinstance(workers, RayWorkers)
        idle(workers)
        yield workers


@pytest.fixture
def pool(processes: RayWorkers) -> Iterator[RayWorkers]:
    """Return the two worker processes, idle; replace afterwards those that a test has cost."""
    yield processes
    processes.abandon()
    with processes._lock:
        for _ in range(2 - len(processes._idle) - len(processes._starting)):
            processes._start_actor()
    idle(processes)


@pytest.fixture(params=["inline", "ray"])
def workers(request: pytest.FixtureRequest) -> Any:
    """Return each kind of workers, idle."""
    return request.getfixturevalue("pool") if request.param == "ray" else InlineWorkers(Scripted(), REFUSING)


def test_results_belong_to_their_requests(workers: Workers) -> None:
    """Each request comes back once, with the outcome of its candidate."""
    waiting = [request_for(f"trials/{i}", candidate) for i, candidate in enumerate(CANDIDATES[::100])]
    expected = {request.folder: PROBLEM.evaluate(request) for request in waiting}
    found: list[Result] = []
    while len(found) < len(expected):
        while waiting and workers.free():
            workers.submit(waiting.pop())
        found += results(workers, 1)
    assert {request.folder: outcome for request, outcome in found} == expected
    assert len(found) == len(expected)


def test_trainers_give_way_to_what_is_measured(pool: RayWorkers) -> None:
    """The process that measures has the driver's priority, those that train the lowest."""
    pool.submit(request_for("trials/niceness"))
    [(_, outcome)] = results(pool, 1)
    assert isinstance(outcome, Infeasible)
    assert outcome.reason == f"trains at niceness 19, the runtime refuses b'bytes' at niceness {os.nice(0)}"


def test_what_a_trial_needed_is_known(pool: RayWorkers) -> None:
    """The memory of a worker's process comes back with the outcome of its trial."""
    pool.submit(request_for("trials/any"))
    results(pool, 1)
    assert 1e7 < pool.peak_bytes() < psutil.virtual_memory().total


def test_free_counts_down_and_up(workers: Workers) -> None:
    """A request takes one place until it has ended."""
    places = workers.free()
    assert places >= 1
    for i in range(places):
        workers.submit(request_for(f"trials/{i}"))
        assert workers.free() == places - i - 1
    results(workers, places)
    assert workers.free() == places


def test_abandon_returns_what_was_running(workers: Workers) -> None:
    """Whatever had not ended is handed back, once."""
    sent = [request_for(f"trials/{i}") for i in range(workers.free())]
    for request in sent:
        workers.submit(request)
    assert sorted(request.folder for request in workers.abandon()) == [request.folder for request in sent]
    assert workers.abandon() == []


def test_a_refusal_keeps_its_reason_and_rung(workers: Workers) -> None:
    """What the meter raises reaches the evaluator as it was raised, also from the device's process."""
    workers.submit(request_for("trials/refused"))
    [(_, outcome)] = results(workers, 1)
    assert outcome == Infeasible(reason=f"the runtime refuses b'bytes' at niceness {os.nice(0)}", rung="latency")


def test_memory_and_energy_are_measured_where_latency_is(workers: Workers) -> None:
    """The meter of the device answers, at its priority, and what it refuses keeps its reason."""
    workers.submit(request_for("trials/costs"))
    [(_, outcome)] = results(workers, 1)
    niceness = os.nice(0)
    assert outcome == Infeasible(
        reason=f"sundial counts no joules at niceness {niceness}", rung="energy", memory_bytes=1000 * niceness + 4
    )


def test_a_defect_is_seen(workers: Workers) -> None:
    """An evaluator's own error is raised where results are waited for."""
    workers.submit(request_for("trials/defect"))
    with pytest.raises(ZeroDivisionError, match="a defect"):
        results(workers, 1)


def test_a_killed_worker_costs_its_trial_only(pool: RayWorkers, tmp_path: Path) -> None:
    """A process killed while it evaluates is reported as lost and replaced; the other trial ends as usual."""
    pool.submit(request_for(f"{tmp_path}/hang"))
    pid = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    assert psutil.Process(pid).nice() == 19
    os.kill(pid, signal.SIGKILL)
    pool.submit(request_for("trials/other"))
    ended = {request.folder: outcome for request, outcome in results(pool, 2)}
    assert isinstance(ended["trials/other"], tuple)
    assert isinstance(ended[f"{tmp_path}/hang"], LostTrial)
    idle(pool)
    for i in range(2):
        pool.submit(request_for(f"trials/{i}"))
    assert all(isinstance(outcome, tuple) for _, outcome in results(pool, 2))


def test_what_never_ends_is_ended(pool: RayWorkers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that outlives its time is infeasible, its process is gone, and its place is free again."""
    pool.submit(request_for("trials/first"))  # the processes are up before the clock runs
    results(pool, 1)
    monkeypatch.setattr(module, "GRACE_S", 0.5)
    pool.submit(request_for(f"{tmp_path}/hang", timeout_s=0.5))
    pid = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    [(_, outcome)] = results(pool, 1)
    assert outcome == Infeasible(reason="it did not end within 0.5 s", rung="timeout")
    idle(pool)
    until(lambda: not psutil.pid_exists(pid))
    pool.submit(request_for("trials/after"))
    assert isinstance(results(pool, 1)[0][1], tuple)


def test_what_is_waited_for_a_device_is_no_time_of_a_trial(pool: RayWorkers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials want the device for longer than either may work; both end, the second after both measurements."""
    for name in ("first", "second"):  # the processes are up before the clock runs
        pool.submit(request_for(f"trials/{name}"))
    results(pool, 2)
    monkeypatch.setattr(module, "GRACE_S", 2 * SLOW_S - 1)  # the second waits for longer, and works for less
    began = time.monotonic()
    for name in ("one/waits", "other/waits"):
        pool.submit(request_for(name, timeout_s=0.5))
    assert [outcome for _, outcome in results(pool, 2) if not isinstance(outcome, tuple)] == []
    assert time.monotonic() - began >= 2 * SLOW_S


def test_no_workers_need_no_pickling() -> None:
    """With 0 workers an evaluator may hold anything."""
    with workers_for(_Unpicklable(), REFUSING, 0) as workers:
        workers.submit(request_for("trials/0"))
        assert isinstance(results(workers, 1)[0][1], tuple)


def test_what_cannot_be_pickled_is_named() -> None:
    """Of a network it is the attribute, of a task the part."""
    data = [(torch.ones(2, 3), torch.zeros(2).long())]
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].guard = threading.Lock()  # type: ignore[assignment]
    sound = Task(nn.Linear(3, 3), torch.ones(1, 3), data, data)
    for task, named in (
        (replace(sound, model=model), "`0.guard`, of type lock, in its `model` is not: cannot pickle"),
        (replace(sound, loss=threading.Lock().acquire), "its `loss` is not: cannot pickle"),  # type: ignore[arg-type]
    ):
        with pytest.raises(UsageError, match=re.escape(named)):
            pickled(task)


def test_what_cannot_be_pickled_is_refused() -> None:
    """The message names the option, the cause and the way out, before any process is started."""
    with (
        pytest.raises(UsageError, match=r"--workers 1 or more a task must be picklable.*generator.*--workers 0"),
        workers_for(_Unpicklable(), REFUSING, 1),
    ):
        pytest.fail("workers were started")


class _Unpicklable:
    def __init__(self) -> None:
        self.stream = (i for i in range(3))

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate a request."""
        return PROBLEM.evaluate(request)
