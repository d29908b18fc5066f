"""Ray's worker processes: started wherever a CPU is free, replaced when they die, never waiting for the driver."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from ...errors import AutocompressError, LostError, UsageError
from ...evaluators.evaluator import Host, Request
from ...evaluators.measurement import Infeasible, Outcome
from ...evaluators.outcome_json import from_json, to_json
from ...evaluators.scratch import leave_shared_folders
from . import wait_times as waits
from .base import LostTrial, Payload, Result
from .cluster import check_versions, versions_of
from .memory_limit import died, own_peak
from .remote_meter import RemoteMeter
from .shared_memory import Packed, arrays, forget, mapped, unpacked

GRACE_S = 10.0
"""A trial that does not end by itself is stopped this long after its timeout, without the time that it waited."""

AHEAD = 4
"""One request waits for each this many workers, so that none of them waits for the driver."""

LOOK_S = 0.5
"""Seconds between two checks for overdue or blocked work."""

PATIENCE_S = 15.0
"""A process that has not started after this many seconds has no place."""

CLOSE_S = 2.0
"""How long the end of a run waits for nodes to delete their buffers."""

MAX_STARTUP_FAILURES = 3
"""How many processes of a worker may die before any of them has started."""


class RayWorkers:
    """Evaluates requests in Ray actors.

    A separate thread hands out submitted requests as soon as an actor is free, so that no actor waits while the driver
    asks for candidates. Ray's futures tell the thread which actors exist and what they do.

    Args:
        payload: an evaluator, packed, with its buffers.
        folder: the directory that holds the folders of requests.
        meters: measure for all of them, by the devices' names, in the processes that hold the devices.
        count: how many actors.
        versions: versions that they must find on their node; see `cluster.check_versions`.
        threads: threads on which each actor trains; it takes as many CPUs.
    """

    interruptible = False  # what `wait` has taken would be lost

    def __init__(
        self,
        payload: Payload,
        folder: Path,
        meters: Mapping[str, RemoteMeter],
        count: int,
        versions: Mapping[str, str] | None = None,
        *,
        threads: int = 1,
    ) -> None:
        import ray

        self._ray = ray
        self._buffers = ray.put(arrays(payload[1]))
        self._payload = ray.put(payload[0])
        self._key = payload[0].key
        self._meters = {name: meter.mute() for name, meter in meters.items()}
        self._host = Host(folder=folder, meters=self._meters)
        self._versions = versions
        self.count = count
        self._threads = threads
        self.ahead = count // AHEAD
        self._lock = threading.RLock()
        self._events: SimpleQueue[tuple[object, Any]] = SimpleQueue()
        self._results: SimpleQueue[Result | BaseException] = SimpleQueue()
        self._starting: dict[object, _Starting] = {}
        self._idle: list[Any] = []
        self._waiting: deque[Request] = deque()
        self._running: dict[object, _Running] = {}
        self._stillborn = 0
        self._gone_at = float("-inf")
        self._blocked_reason = ""
        self._peak_bytes = 0
        self._open = True
        for _ in range(count):
            self._start_actor()
        self._thread = threading.Thread(target=self._serve, name="workers", daemon=True)
        self._thread.start()

    def free(self) -> int:
        """Return how many requests can be started or queued, given that results are taken first."""
        with self._lock:
            return max(0, len(self._idle) + self.ahead - len(self._waiting) - self._results.qsize())

    def submit(self, request: Request) -> None:
        """Give a request to an idle actor, or have it wait for the next one."""
        with self._lock:
            self._waiting.append(request)
            self._hand_out()

    def wait(self, timeout_s: float) -> list[Result]:
        """Return results; an actor that died or exceeded its time is replaced."""
        found: list[Result] = []
        with suppress(Empty):
            while True:
                result = self._results.get(timeout=0 if found else timeout_s)
                if isinstance(result, BaseException):
                    raise result  # a defect of ours, which must be seen
                found.append(result)
        return found

    def blocked_reason(self) -> str:
        """Return what the workers wait for, in words; empty if they work."""
        return self._blocked_reason

    def peak_bytes(self) -> int:
        """Return the most memory that an actor has had for itself, over those whose trials ended."""
        return self._peak_bytes

    def withdraw(self) -> list[Request]:
        """Return submitted requests that have not started, and withdraw them."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
            return waiting

    def abandon(self) -> list[Request]:
        """Kill the busy actors."""
        with self._lock:
            requests = [running.request for running in self._running.values()]
            for running in self._running.values():
                self._ray.kill(running.worker)
            self._running.clear()
            while not self._results.empty():
                result = self._results.get()
                if not isinstance(result, BaseException):
                    requests.append(result[0])
            return requests + self.withdraw()

    def close(self) -> None:
        """Delete what the nodes' workers share, and end the actors."""
        key = self._key
        forget(key)
        with self._lock:
            if not self._open:
                return
            self._open = False
            told = [worker.forget.remote(key) for worker in self._idle]
            if told:
                self._ray.wait(told, num_returns=len(told), timeout=CLOSE_S)
            workers = [
                *self._idle,
                *(r.worker for r in self._running.values()),
                *(h.worker for h in self._starting.values()),
            ]
            for worker in workers:
                self._ray.kill(worker)
        self._thread.join()

    def _start_actor(self) -> None:
        """Request an actor somewhere; it reports that it is there, and is loaded then."""
        spread = self._ray.remote(_Worker).options(num_cpus=self._threads, scheduling_strategy="SPREAD")
        worker = spread.remote(self._host, self._threads)
        key = object()
        self._starting[key] = _Starting(worker, time.monotonic())
        self._call_back(key, worker.present.remote())

    def _call_back(self, key: object, answer: Any) -> None:
        answer.future().add_done_callback(lambda future: self._events.put((key, future)))

    def _serve(self) -> None:
        """Handle events until the end; `wait` raises any error."""
        looked = time.monotonic()
        while self._open:
            try:
                with suppress(Empty):
                    key, future = self._events.get(timeout=LOOK_S)
                    with self._lock:
                        if self._open:
                            self._take_up(key, future)
                if time.monotonic() - looked > LOOK_S:
                    looked = time.monotonic()
                    self._look()
            except BaseException as error:
                if self._open:
                    self._results.put(error)

    def _take_up(self, key: object, future: Any) -> None:
        if key in self._starting:
            self._settle_in(key, future)
        elif key in self._running:
            self._results.put(self._end(self._running.pop(key), future))
        self._hand_out()

    def _settle_in(self, key: object, future: Any) -> None:
        """Continue with an actor that has started, was loaded, or died before."""
        starting = self._starting[key]
        try:
            future.result()
        except self._ray.exceptions.RayTaskError as error:
            raise _blame(error) from error
        except self._ray.exceptions.RayError as error:
            del self._starting[key]
            self._stillborn += 1
            if self._stillborn > MAX_STARTUP_FAILURES * self.count:
                raise AutocompressError(f"workers die before they start, again and again: {error}") from error
            self._start_actor()
            return
        if not starting.present:
            starting.present = True
            self._call_back(key, starting.worker.load.remote(self._payload, [self._buffers], self._versions))
            return
        del self._starting[key]
        self._stillborn = 0
        self._idle.append(starting.worker)

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            worker, request = self._idle.pop(), self._waiting.popleft()
            key = object()
            running = self._running[key] = _Running(request, worker, time.monotonic())
            self._call_back(key, worker.evaluate.remote(request, running.token))

    def _end(self, running: _Running, future: Any) -> Result:
        try:
            answer, peak_bytes = future.result()
            outcome, self._peak_bytes = from_json(answer), max(self._peak_bytes, peak_bytes)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(running.worker)
            if isinstance(error.cause, LostError):
                return running.request, LostTrial(str(error.cause), counts=False)
            raise  # a defect of ours, which must be seen
        except self._ray.exceptions.RayError as error:
            self._start_actor()
            waits.forget(running.token)
            return running.request, died(running.request, error)
        self._idle.append(running.worker)
        return running.request, self._excused(running, outcome)

    def _excused(self, running: _Running, outcome: Outcome) -> Outcome | LostTrial:
        """Return the outcome of a trial, unless it failed while there was no device to measure on."""
        if isinstance(outcome, Infeasible) and running.began < self._gone_at:
            return LostTrial("the device was gone")
        return outcome

    def _look(self) -> None:
        """Stop overdue work, and find out what the others wait for."""
        gone = " · ".join(filter(None, (meter.gone() for meter in self._meters.values())))
        now = time.monotonic()
        with self._lock:
            if gone:
                self._gone_at = now
            for key in [key for key, running in self._running.items() if running.overdue(now)]:
                running = self._running.pop(key)
                waits.forget(running.token)
                self._ray.kill(running.worker)
                self._start_actor()
                late = Infeasible(reason=f"it did not end within {running.request.timeout_s:g} s", rung="timeout")
                self._results.put((running.request, self._excused(running, late)))
            homeless = sum(not h.present and now - h.since > PATIENCE_S for h in self._starting.values())
            places = f"{homeless} of {self.count} workers wait for a free CPU in the cluster" if homeless else ""
            self._blocked_reason = " · ".join(filter(None, (gone, places)))


@dataclass
class _Starting:
    """A requested actor, and whether it has a place."""

    worker: Any
    since: float
    present: bool = False


@dataclass(frozen=True)
class _Running:
    """A request, its actor, its start, and the name under which the actor reports its waiting time."""

    request: Request
    worker: Any
    began: float
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def overdue(self, now: float) -> bool:
        """Whether it has worked for longer than allowed."""
        late_s = now - self.began - self.request.timeout_s - GRACE_S
        return late_s > 0 and late_s > waits.waited(self.token)


def _blame(error: Any) -> BaseException:
    """Return why an actor could not be loaded, as a user's error if it is one."""
    cause: BaseException = error.cause
    if isinstance(cause, UsageError):
        return cause
    return UsageError(
        "a task must be loadable in the worker processes, on every node of a cluster; it is not: "
        f"{type(cause).__name__}: {cause}. Install on every node what the study imports, at the same paths."
    )


class _Worker:
    """A process that builds and trains, at the lowest priority so that it does not disturb measuring."""

    def __init__(self, host: Host, threads: int) -> None:
        self._host = host
        self._threads = threads

    def present(self) -> None:
        """Show that the process is there."""

    def load(self, payload: Packed, buffers: list[Any], versions: Mapping[str, str] | None) -> None:
        """Load the evaluator; the node may have joined after the others were compared."""
        import ray

        os.nice(19)
        if versions is not None:
            check_versions(versions, {f"node {socket.gethostname()}": versions_of(versions)})
        import torch

        torch.set_num_threads(self._threads)
        self._evaluator = unpacked(payload, mapped(payload.key, payload.lengths, lambda: ray.get(buffers[0])))

    def evaluate(self, request: Request, token: str) -> tuple[str, int]:
        with waits.reported(token):
            return to_json(self._evaluator.evaluate(request, self._host)), own_peak()

    def forget(self, key: str) -> None:
        """Delete what the workers of this node share."""
        forget(key)
        leave_shared_folders()
