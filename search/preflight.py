"""Checks made before a study writes anything: its runtimes, its run directory, its database, its cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..evaluators import runtimes
from ..evaluators.device_lock import check_locks
from ..evaluators.meters.energy import counter_of
from ..evaluators.meters.serve_once import peak_so_far
from ..evaluators.runtime import Runtime
from ..evaluators.scratch import private_folder
from ..pareto.limits import Limits, same_unit
from ..storage import artifacts
from ..storage import run_directory as rundir
from ..storage.redact import plain_url
from ..studies.metric_units import PLAIN
from .options import Options
from .workers.cluster import check_callers, reachable
from .workers.ray_session import running

if TYPE_CHECKING:
    from ..storage.rdb import PatientRDBStorage
    from ..studies.task import Task


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """A study that may start, as far as that is known without its task.

    Attributes:
        options: its options, with the location of files spelt out.
        servers: the runtimes.
        identity: what must stay the same to resume a run.
        database: the database that holds the study, open until `close`; None if the run directory holds it.

    """

    options: Options
    servers: Sequence[Runtime]
    identity: Mapping[str, str]
    database: PatientRDBStorage | None = None

    def close(self) -> None:
        """Close the connections to the database."""
        from ..storage.backends import close_storage  # noqa: PLC0415  # start-up time: Optuna is slow to import

        if self.database is not None:
            close_storage(self.database)


def check_options(name: str, options: Options) -> Preflight:
    """Check everything that can be checked before the study is loaded, and write nothing.

    Raises:
        UsageError: an option cannot be met.
    """
    check_locks()
    with private_folder():  # tells at once where it is not this user's
        pass
    servers = [runtimes.load(runtime) for runtime in options.runtimes]
    for server in servers:
        server.describe()  # tells at once where the runtime's package is missing
        measurable(options.limits, server.capabilities.device)
    identity = identity_of(name, servers, options)
    if options.artifacts is None:
        rundir.check(options.out, identity)
    if options.artifacts is not None:
        place = artifacts.check_artifacts(options.artifacts, options.workers)
        options = replace(options, artifacts=place)
        identity["artifacts"] = plain_url(place)
        rundir.check(options.out, identity)
    if options.tensorboard is not None:
        from .tensorboard import check  # noqa: PLC0415  # start-up time: only --tensorboard needs it

        check(options.tensorboard)
    if options.workers != 0 and running():
        check_callers(options)
    elif options.ray_address is not None:
        reachable(options.ray_address)
    database = None
    if options.storage is not None:
        from ..storage.backends import open_database  # noqa: PLC0415  # start-up time: Optuna is slow to import

        database = open_database(options.storage)  # fails at once where it cannot be reached
    return Preflight(options=options, servers=servers, identity=identity, database=database)


def identity_of(name: str, servers: Sequence[Runtime], options: Options) -> dict[str, str]:
    """Return what must stay the same to resume a run of a study.

    Raises:
        UsageError: compact files are wanted for a runtime that has none.
    """
    identity = {
        "study": name,
        "runtime": ", ".join(server.name for server in servers),
        "threads": str(options.threads),
        "batch": str(options.batch or "as in the task"),
        "percentile": f"{options.percentile:g}",
        "device": ", ".join(options.measure_on) or "this machine",
    }
    if options.compact:
        identity["sizes"] = "of compact files"
    other = [server for server in servers if server.capabilities.reads[0] != ".onnx"]
    if options.compact and other:
        ending = other[0].capabilities.reads[0]
        raise UsageError(f"--compact packs ONNX files; those of {other[0].name} end in {ending}.")
    return identity


def in_unit(options: Options, task: Task, fingerprint: Mapping[str, Any]) -> Options:
    """Return options with the metric's unit: the task's, or none if a batch decides it.

    Raises:
        UsageError: a least accuracy was given in another unit.
    """
    unit, tried = task.unit, fingerprint.get("metric")
    if unit is None and tried is not None and not 0 <= tried["value"] <= 1:
        unit = PLAIN
    same_unit(options.unit, unit)
    return replace(options, unit=unit)


def measurable(limits: Limits, device: str) -> None:
    """Check that the machine can measure the limited costs.

    Raises:
        UsageError: it cannot.
    """
    if limits.max_energy_mj is not None:
        counter_of(device, "--max-energy")
    if limits.max_memory_bytes is not None and peak_so_far() is None:
        raise UsageError("--max-memory needs a system that reports a process's peak memory (VmHWM); leave it out here.")
