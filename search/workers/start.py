"""Starts workers: in this process, or as Ray's worker processes.

Each worker trains in its own process, at the lowest priority; one process per device measures. A process that dies
costs its running trials, and is replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING

from ...errors import UsageError
from ...evaluators.cgroup import available_cores
from ...evaluators.evaluator import Evaluator, Host
from .base import Payload, Workers
from .cluster import Cluster
from .inline import InlineWorkers
from .ray_session import begun
from .remote_meter import MeterActor, RemoteMeter
from .shared_memory import packed

if TYPE_CHECKING:
    from .ray_workers import RayWorkers


@contextmanager
def workers_for(
    evaluator: Evaluator, host: Host, count: int | None, cluster: Cluster | None = None, *, threads: int = 1
) -> Iterator[Workers]:
    """Start workers for an evaluator, and stop them at the end.

    Args:
        evaluator: what each worker uses; with more than 0 workers it must be picklable.
        host: what each worker provides to it; the meters may be of this machine or of a cluster's devices.
        count: how many processes; 0 evaluates in this one, None takes the cluster's CPUs or this machine's cores.
        cluster: where they run; None starts Ray on this machine.
        threads: threads on which each one trains.

    Raises:
        UsageError: the evaluator, and so the user's task, cannot be sent to another process.
    """
    if count == 0:
        yield InlineWorkers(evaluator, host)
        return
    payload = pickled(evaluator)
    if cluster is not None:
        count = count or cluster.cpus
        with _ray_workers(payload, host, count, threads, cluster.devices, cluster.versions) as workers:
            yield workers
        return
    count = count or available_cores()
    with begun(count=count * threads), _ray_workers(payload, host, count, threads, [MeterActor.here()]) as workers:
        yield workers


@contextmanager
def _ray_workers(
    payload: Payload,
    host: Host,
    count: int,
    threads: int,
    devices: Sequence[MeterActor],
    versions: Mapping[str, str] | None = None,
) -> Iterator[RayWorkers]:
    """Start workers on Ray; a meter of this machine measures in the first device's process."""
    from .ray_workers import RayWorkers

    meters = {
        name: meter if isinstance(meter, RemoteMeter) else devices[0].meter(meter)
        for name, meter in host.meters.items()
    }
    workers = RayWorkers(payload, host.folder, meters, count, versions, threads=threads)
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
    """Return which part of a task cannot be pickled; for a network, which attribute."""
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
