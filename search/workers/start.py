"""Where candidates are evaluated: in this process, or in Ray's worker processes.

Training goes on in as many processes as there are workers, at the lowest priority; measuring goes on in the one
process that holds a device. Whoever dies costs the trials that it was running, and is replaced.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Protocol

from ...errors import LostError, UsageError
from ...evaluators.cgroup import available_cores
from ...evaluators.evaluator import Evaluator, Request
from ...evaluators.measurement import Outcome
from ...evaluators.meters.latency import Meter
from .cluster import Cluster
from .ray_session import begun
from .remote_meter import MeterActor, Meters, RemoteMeter
from .shared_memory import Packed, packed

if TYPE_CHECKING:
    from .ray_workers import RayWorkers


@dataclass(frozen=True)
class LostTrial:
    """A trial whose worker is gone, or whose files are; ``counts`` tells whether the trial may be to blame."""

    why: str
    counts: bool = True


Result = tuple[Request, Outcome | LostTrial]

Payload = tuple[Packed, list[memoryview]]
"""Work for another process, and its large buffers."""


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

    def held_up(self) -> str:
        """Return what the work waits for, in words; nothing where it goes on."""
        ...

    def peak_bytes(self) -> int:
        """Return the most memory that a worker had of its own until now; 0 where nothing tells."""
        ...

    def withdraw(self) -> list[Request]:
        """Take back what was submitted and not begun, and return it."""
        ...

    def abandon(self) -> list[Request]:
        """End everything that is running or waits, and return it."""
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

    def _evaluated(self, request: Request) -> Outcome | LostTrial:
        try:
            return self._evaluator.evaluate(request)
        except LostError as error:
            return LostTrial(str(error), counts=False)

    def held_up(self) -> str:
        """Return nothing: there is always this process."""
        return ""

    def peak_bytes(self) -> int:
        """Return nothing that would tell a trial's memory from that of the search."""
        return 0

    def withdraw(self) -> list[Request]:
        """Return nothing: a request is begun when it is waited for."""
        return []

    def abandon(self) -> list[Request]:
        """Return what is queued; a request that was interrupted is still there."""
        queued, self._queue = self._queue, []
        return queued


@contextmanager
def workers_for(
    evaluator: Evaluator, meter: Meter | Meters, count: int | None, cluster: Cluster | None = None
) -> Iterator[Workers]:
    """Start workers for an evaluator, and stop them at the end.

    Args:
        evaluator: what each worker uses; with more than 0 workers it must be picklable, and its ``meter`` is replaced.
        meter: measures for all workers.
        count: how many processes; 0 evaluates in this one, None takes the cluster's CPUs or this machine's cores.
        cluster: where they are; None starts Ray on this machine.

    Raises:
        UsageError: the evaluator, and so the user's task, cannot be sent to another process.
    """
    if count == 0:
        yield InlineWorkers(evaluator)
        return
    evaluator = copy.copy(evaluator)
    if hasattr(evaluator, "meter"):
        evaluator.meter = None  # it has references that only Ray can pickle
    payload = pickled(evaluator)
    if cluster is not None:
        with _crew(payload, meter, count or cluster.cpus, cluster.devices, cluster.versions) as workers:
            yield workers
        return
    count = count or available_cores()
    with begun(count=count), _crew(payload, meter, count, [MeterActor.here()]) as workers:
        yield workers


@contextmanager
def _crew(
    payload: Payload,
    meter: Meter | Meters,
    count: int,
    devices: Sequence[MeterActor],
    versions: Mapping[str, str] | None = None,
) -> Iterator[RayWorkers]:
    from .ray_workers import RayWorkers

    remote = meter if isinstance(meter, RemoteMeter | Meters) else devices[0].meter(meter)
    workers = RayWorkers(payload, remote, count, versions)
    try:
        yield workers
    finally:
        workers.close()
        for device in devices:
            device.close()


def pickled(work: object) -> Payload:
    """Return a task, or an evaluator that holds one, as bytes for another process, and its large buffers.

    Raises:
        UsageError: something in the user's task cannot be pickled.
    """
    try:
        return packed(work)
    except Exception as error:  # objects refuse to be pickled in any way
        raise UsageError(
            f"with --workers 1 or more a task must be picklable; {_unpicklable(work)} is not: {error}. "
            "Give --workers 0 to run the trials in this process, or take out of the task what cannot be pickled."
        ) from error


def _unpicklable(work: object) -> str:
    """Return which part of a task cannot be pickled, of a network which attribute."""
    from torch import nn

    from ...studies.networks.copied import culprit

    task = getattr(work, "task", work)
    for field in fields(task) if is_dataclass(task) else ():
        part = getattr(task, field.name)
        try:
            packed(part)
        except Exception:  # objects refuse in any way
            within = f"{culprit(part, packed)} in " if isinstance(part, nn.Module) else ""
            return f"{within}its `{field.name}`"
    return "this one"
