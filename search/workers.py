"""Where candidates are evaluated: in this process, or in Ray's worker processes.

Training goes on in as many processes as there are workers, at the lowest priority; measuring goes on in the one
process that holds the device. Whoever dies costs the trials that it was running, and is replaced.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import InfeasibleError, LostError, UsageError
from ..evaluators.evaluator import Evaluator, Request
from ..evaluators.exclusive import off_the_floor
from ..evaluators.latency import Meter, Plan
from ..evaluators.measurement import Infeasible, Latency, Outcome, from_json, to_json
from .sharing import Packed, arrays, forget, mapped, packed, unpacked

GRACE_S = 10.0
"""A trial that does not end by itself is ended this much after its time."""


@dataclass(frozen=True)
class Lost:
    """A trial whose worker is gone, or whose files are; ``counts`` tells whether the trial may be to blame."""

    why: str
    counts: bool = True


Result = tuple[Request, Outcome | Lost]

Payload = tuple[Packed, list[memoryview]]
"""Work for another process, and its large buffers."""

CLOSE_S = 2.0
"""How long the end of a run waits for nodes that delete what they hold."""


class Workers(Protocol):
    """Somewhere to evaluate requests, a few at a time."""

    interruptible: bool
    """Whether `wait` may be left by an exception that a signal handler raises."""

    def free(self) -> int:
        """Return how many more requests can be begun."""
        ...

    def submit(self, request: Request) -> None:
        """Begin to evaluate a request."""
        ...

    def wait(self, timeout_s: float) -> list[Result]:
        """Return what ended, after at most so many seconds."""
        ...

    def abandon(self) -> list[Request]:
        """End everything that is running, and return it."""
        ...


class InlineWorkers:
    """Evaluates one request at a time in this process, when it is waited for."""

    interruptible = True

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._queue: list[Request] = []

    def free(self) -> int:
        """Return 1 when nothing is queued."""
        return 1 - len(self._queue)

    def submit(self, request: Request) -> None:
        """Queue a request."""
        self._queue.append(request)

    def wait(self, timeout_s: float) -> list[Result]:
        """Evaluate what is queued, however long that takes."""
        results: list[Result] = []
        while self._queue:
            results.append((self._queue[0], self._evaluated(self._queue[0])))
            self._queue.pop(0)
        return results

    def _evaluated(self, request: Request) -> Outcome | Lost:
        try:
            return self._evaluator.evaluate(request)
        except LostError as error:
            return Lost(str(error), counts=False)

    def abandon(self) -> list[Request]:
        """Return what is queued; a request that was interrupted is still there."""
        queued, self._queue = self._queue, []
        return queued


class RayWorkers:
    """Evaluates requests in Ray actors.

    Args:
        payload: an evaluator, packed, with its buffers; its meter is replaced by the device's.
        meter: measures, in the process that holds the device.
        count: how many actors.
    """

    interruptible = False  # Ray's native code takes an exception for a fault of its own

    def __init__(self, payload: Payload, meter: Meter, count: int) -> None:
        import ray

        self._ray = ray
        self._buffers = ray.put(arrays(payload[1]))
        self._payload = ray.put(payload[0])
        self._meter = ray.put(meter)
        self._device = (
            ray.remote(_Device)
            .options(num_cpus=0, resources={DEVICE: 1}, max_restarts=-1, max_task_retries=-1)
            .remote()
        )
        self._idle = [self._hire() for _ in range(count)]
        self._running: dict[Any, tuple[Request, Any, float]] = {}

    def _hire(self) -> Any:
        work = self._payload, [self._buffers], self._device, [self._meter]
        return self._ray.remote(_Worker).options(num_cpus=1).remote(*work)

    def free(self) -> int:
        """Return the number of idle actors."""
        return len(self._idle)

    def submit(self, request: Request) -> None:
        """Give a request to an idle actor."""
        worker = self._idle.pop()
        deadline = time.monotonic() + request.timeout_s + GRACE_S
        self._running[worker.evaluate.remote(request)] = (request, worker, deadline)

    def wait(self, timeout_s: float) -> list[Result]:
        """Return what ended; an actor that died or ran over its time is replaced."""
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        return [self._end(future) for future in ended] + list(self._overdue())

    def _end(self, future: Any) -> Result:
        request, worker, _ = self._running.pop(future)
        try:
            outcome = from_json(self._ray.get(future))
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(worker)
            if isinstance(error.cause, LostError):
                return request, Lost(str(error.cause), counts=False)
            raise  # a defect of ours, which must be seen
        except self._ray.exceptions.RayError as error:
            from .guard import died

            self._idle.append(self._hire())
            return request, died(request, error)
        self._idle.append(worker)
        return request, outcome

    def _overdue(self) -> Iterator[Result]:
        now = time.monotonic()
        for future in [f for f, (_, _, deadline) in self._running.items() if now > deadline]:
            request, worker, _ = self._running.pop(future)
            self._ray.kill(worker)
            self._idle.append(self._hire())
            yield request, Infeasible(reason=f"it did not end within {request.timeout_s:g} s", rung="timeout")

    def abandon(self) -> list[Request]:
        """Kill the actors that are running something."""
        requests = []
        for request, worker, _ in self._running.values():
            self._ray.kill(worker)
            requests.append(request)
        self._running.clear()
        return requests

    def close(self) -> None:
        """Delete what the nodes hold for the workers."""
        key = self._buffers.hex()
        forget(key)
        told = [worker.forget.remote(key) for worker in self._idle]
        if told:
            self._ray.wait(told, num_returns=len(told), timeout=CLOSE_S)


DEVICE = "autocompress_device"
"""Ray's name for the one slot in which latency is measured."""


class _Device:
    """The process that holds the device: it measures for all workers, at normal priority, one at a time."""

    def measure(
        self, meter: Meter, artefact: bytes, plan: Plan, runtime: str | None, timeout_s: float | None
    ) -> Latency:
        return meter.measure(artefact, plan, runtime=runtime, timeout_s=timeout_s)

    def memory(self, meter: Meter, artefact: bytes, runtime: str | None) -> int | None:
        return meter.memory(artefact, runtime=runtime)

    def energy(self, meter: Meter, artefact: bytes, runtime: str | None) -> float | None:
        return meter.energy(artefact, runtime=runtime)


class _RemoteMeter:
    """The device's meter, seen from a worker."""

    def __init__(self, device: Any, meter: Any) -> None:
        self._device = device
        self._meter = meter

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        latency: Latency = _answer(self._device.measure.remote(self._meter, artefact, plan, runtime, timeout_s))
        return latency

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        memory_bytes: int | None = _answer(self._device.memory.remote(self._meter, artefact, runtime))
        return memory_bytes

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        energy_mj: float | None = _answer(self._device.energy.remote(self._meter, artefact, runtime))
        return energy_mj


def _answer(asked: Any) -> Any:
    """Wait for the device, training nothing meanwhile."""
    import ray

    try:
        with off_the_floor():
            return ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InfeasibleError):
            raise error.cause from None
        raise


class _Worker:
    """A process that builds and trains, at the lowest priority so that it does not disturb what is measured."""

    def __init__(self, payload: Packed, buffers: list[Any], device: Any, meter: list[Any]) -> None:
        import ray
        import torch

        os.nice(19)
        torch.set_num_threads(1)
        self._evaluator = unpacked(payload, mapped(buffers[0].hex(), payload.lengths, lambda: ray.get(buffers[0])))
        self._evaluator.meter = _RemoteMeter(device, meter[0])

    def evaluate(self, request: Request) -> str:
        return to_json(self._evaluator.evaluate(request))

    def forget(self, key: str) -> None:
        forget(key)


@contextmanager
def workers_for(evaluator: Evaluator, meter: Meter, count: int) -> Iterator[Workers]:
    """Start workers for an evaluator, and stop them at the end.

    Args:
        evaluator: what each worker uses; with more than 0 workers it must be picklable, and its ``meter`` is replaced.
        meter: measures for all workers.
        count: how many processes; 0 evaluates in this one.

    Raises:
        UsageError: the evaluator, and so the user's task, cannot be sent to another process.
    """
    if count == 0:
        yield InlineWorkers(evaluator)
        return
    payload = pickled(evaluator)
    with _ray(count):
        workers = RayWorkers(payload, meter, count)
        try:
            yield workers
        finally:
            workers.close()


def pickled(work: object) -> Payload:
    """Return a task, or an evaluator that holds one, as bytes for another process, and its large buffers.

    Raises:
        UsageError: something in the user's task cannot be pickled.
    """
    try:
        return packed(work)
    except Exception as error:  # objects refuse to be pickled in any way
        raise UsageError(
            f"with --workers 1 or more a task must be picklable; this one is not: {error}. "
            "Give --workers 0 to run the trials in this process, or take out of the task what cannot be pickled."
        ) from error


@contextmanager
def _ray(count: int) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # what measures has normal priority; trainers lower their own
    import ray

    ray.init(
        address="local",  # a cluster that runs on this machine was not asked for
        num_cpus=count,
        resources={DEVICE: 1},
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        configure_logging=True,
    )
    try:
        yield
    finally:
        ray.shutdown()
