"""The loop that submits requests to workers and hands back what they return."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.search.dispatch import RunContext, run_requests
from autocompress.search.interrupts import Interrupted, Interrupts
from autocompress.search.options import Options
from autocompress.search.workers.base import LostTrial, Result
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run_directory import RunDirectory

DONE = Infeasible(reason="it is done", rung="build")


class FakeWorkers:
    """So many workers at a time, each of which takes one wait; what they return is prescribed by the test."""

    interruptible = False

    def __init__(self, count: int, evaluate: Callable[[Request], Outcome | LostTrial] = lambda request: DONE) -> None:
        self.count = count
        self.evaluate = evaluate
        self.running: list[Request] = []
        self.submitted: list[str] = []

    def free(self) -> int:
        """Return how many have nothing to do."""
        return self.count - len(self.running)

    def submit(self, request: Request) -> None:
        """Remember the request."""
        assert self.free() > 0
        self.running.append(request)
        self.submitted.append(request.folder)

    def wait(self, timeout_s: float) -> list[Result]:
        """Return all that is running, the latest first."""
        results = [(request, self.evaluate(request)) for request in reversed(self.running)]
        self.running.clear()
        return results

    def blocked_reason(self) -> str:
        """Return nothing."""
        return ""

    def peak_bytes(self) -> int:
        """Return nothing."""
        return 0

    def withdraw(self) -> list[Request]:
        """Return nothing."""
        return []

    def abandon(self) -> list[Request]:
        """Return what is running, and stop it."""
        found, self.running = self.running, []
        return found


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Callable[[FakeWorkers], RunContext]]:
    """Return a function that returns a run with the given workers."""
    with_options = Options(target_ms=1.0, out=tmp_path / "run")
    rundir = RunDirectory(tmp_path / "run", {"study": "run"})
    yield lambda workers: RunContext(
        options=with_options, rundir=rundir, workers=workers, epochs=1.0, interrupts=Interrupts()
    )
    rundir.close()


Context = Callable[[FakeWorkers], RunContext]


def requests(count: int) -> Iterator[Request]:
    """Yield requests whose folders are numbers."""
    yield from (Request(folder=f"trials/{number}", candidate=Candidate(), epochs=1.0) for number in range(count))


def test_each_request_is_submitted_in_order_and_returned_once(context: Context) -> None:
    """No more than the free workers' number run at a time, and every result is handed over as it comes."""
    workers, waiting, ended = FakeWorkers(2), requests(5), list[str]()
    run_requests(context(workers), lambda: next(waiting, None), lambda request, result: ended.append(request.folder))
    assert workers.submitted == [f"trials/{number}" for number in range(5)]
    assert ended == [f"trials/{number}" for number in (1, 0, 3, 2, 4)]


def test_running_requests_are_listed_until_they_end(context: Context) -> None:
    """Before each wait the caller sees which requests are running, and afterwards none."""
    waiting, running, seen = requests(3), dict[str, float](), list[list[str]]()
    run_requests(
        context(FakeWorkers(2)),
        lambda: next(waiting, None),
        lambda request, result: None,
        running=running,
        each_round=lambda: seen.append(sorted(running)),
    )
    assert seen == [["trials/0", "trials/1"], ["trials/2"]]
    assert running == {}


def test_a_lost_request_is_retried(context: Context) -> None:
    """It comes before new requests, with its attempts counted; the last loss is its result."""
    attempts: list[tuple[str, int]] = []

    def evaluate(request: Request) -> Outcome | LostTrial:
        attempts.append((request.folder, request.attempt))
        hopeless = request.folder == "trials/0"
        return LostTrial("the worker died") if hopeless or (request.attempt == 0 and len(attempts) == 4) else DONE

    waiting, results = requests(2), dict[str, Outcome | LostTrial]()
    run_requests(context(FakeWorkers(1, evaluate)), lambda: next(waiting, None), _into(results), retries=2)
    assert attempts == [("trials/0", 0), ("trials/0", 1), ("trials/0", 2), ("trials/1", 0), ("trials/1", 1)]
    assert results == {"trials/0": LostTrial("the worker died"), "trials/1": DONE}


def test_without_retries_a_loss_is_a_result(context: Context) -> None:
    """Who keeps count of the attempts elsewhere, as the study does, gets each loss."""
    waiting, results = requests(1), dict[str, Outcome | LostTrial]()
    workers = FakeWorkers(1, lambda request: LostTrial("the worker died"))
    run_requests(context(workers), lambda: next(waiting, None), _into(results))
    assert results == {"trials/0": LostTrial("the worker died")}
    assert workers.submitted == ["trials/0"]


def test_a_result_may_lead_to_another_request(context: Context) -> None:
    """The loop ends only if nothing runs, nothing is returned next and nothing is expected."""
    waiting = list(requests(1))
    more = list(requests(3))[1:]

    def take(request: Request, result: Outcome | LostTrial) -> None:
        if more:
            waiting.append(more.pop(0))

    workers = FakeWorkers(4)
    run_requests(context(workers), lambda: waiting.pop(0) if waiting else None, take)
    assert workers.submitted == ["trials/0", "trials/1", "trials/2"]


def test_an_idle_loop_waits_for_what_is_expected(context: Context) -> None:
    """Where another driver may put a trial back, nothing runs here and the loop still waits for it."""
    rounds: list[int] = []
    workers, waiting = FakeWorkers(1), requests(1)
    run_requests(
        context(workers),
        lambda: next(waiting, None) if len(rounds) > 0 else None,
        lambda request, result: None,
        expects_more=lambda: not workers.submitted,
        each_round=lambda: rounds.append(len(workers.running)),
    )
    assert rounds == [0, 1]
    assert workers.submitted == ["trials/0"]


def test_an_interrupt_waits_until_no_result_can_be_lost(context: Context) -> None:
    """Results that were waited for are handed over first; then what runs is abandoned and nothing is submitted."""
    results: dict[str, Outcome | LostTrial] = {}

    def evaluate(request: Request) -> Outcome:
        if request.folder == "trials/1":
            os.kill(os.getpid(), signal.SIGINT)
        return DONE

    workers, waiting, running = FakeWorkers(1, evaluate), requests(4), dict[str, float]()
    run = context(workers)
    with run.interrupts.handled(), pytest.raises(Interrupted):
        run_requests(run, lambda: next(waiting, None), _into(results), running=running)
    assert list(results) == ["trials/0", "trials/1"]
    assert list(running) == ["trials/2"]
    assert workers.running == []
    assert [request.folder for request in waiting] == ["trials/3"]


def _into(results: dict[str, Outcome | LostTrial]) -> Callable[[Request, Outcome | LostTrial], object]:
    """Return a function that keeps results by their requests' folders."""

    def take(request: Request, result: Outcome | LostTrial) -> None:
        results[request.folder] = result

    return take
