"""A Ray cluster that others have started: joined, checked, and left as it was."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..errors import UsageError
from .devices import Device
from .options import Options
from .progress import Progress

CONNECT_S = 10.0
"""Seconds that an address has to answer."""

ANSWER_S = 120.0
"""Seconds that a node has to tell its versions, or to start the process that measures."""

ALWAYS = ("ray", "torch", "onnx", "onnxruntime", "cloudpickle", "numpy", "safetensors")
"""Packages that are compared where autocompress runs from a checkout that was not installed."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that was joined.

    Attributes:
        cpus: how many trials it can train at a time.
        devices: where is measured: those that were asked for, or this machine.
        versions: of what must be the same on every node.
    """

    cpus: int
    devices: tuple[Device, ...]
    versions: Mapping[str, str]


def environment() -> None:
    """Tell Ray, before it is imported, how we want it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # what measures has normal priority; trainers lower their own


@contextmanager
def joined(options: Options, progress: Progress) -> Iterator[Cluster | None]:
    """Join the cluster of `Options.ray_address` for as long as the context lasts; None where no address was given.

    Raises:
        UsageError: it cannot be reached, its nodes differ, or none offers the device that was asked for.
    """
    address = options.ray_address
    if address is None:
        yield None
        return
    ray = _connected(address)
    try:
        nodes = _nodes(ray)
        for name in options.measure_on:
            if not any(name in node["Resources"] for node in nodes):
                raise UsageError(
                    f"--measure-on must name a resource that a node of the cluster offers; got {name!r}, and these are "
                    f"offered: {', '.join(_resources(nodes)) or 'none'}. On the node with the device: "
                    f"ray start --address=… --resources '{{\"{name}\": 1}}'"
                )
        versions = versions_here(options.runtimes)
        needed = [n for n in nodes if n["Resources"].get("CPU") or {*options.measure_on} & {*n["Resources"]}]
        _same_versions(ray, needed, versions)
        cpus = int(sum(node["Resources"].get("CPU", 0) for node in nodes))
        if not cpus:
            raise UsageError("a cluster must have a node with CPUs to train on; this one offers none (--num-cpus).")
        devices = tuple(map(Device.on, options.measure_on)) or (Device.here(),)
        for device in devices:
            _unhurried(ray, device, progress)
        yield Cluster(cpus, devices, versions)
    finally:
        ray.shutdown()


def reachable(address: str) -> None:
    """Check that something listens where a cluster is said to be, without joining it.

    Raises:
        UsageError: nothing does.
    """
    match = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address)
    if address == "auto":
        return
    if match is None:
        raise UsageError(f"--ray-address must be auto, HOST:PORT or ray://HOST:PORT; got {address!r}.")
    try:
        socket.create_connection((match[1], int(match[2])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _connected(address: str) -> Any:
    """Return Ray, with this process as a driver of the cluster."""
    reachable(address)
    environment()
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=True)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and others
        raise _unreachable(address, error) from error
    return ray


def _unreachable(address: str, error: Exception) -> UsageError:
    cause = (str(error).strip().splitlines() or [type(error).__name__])[-1].rstrip(".")
    hint = ""
    if address.startswith("ray://") and find_spec("grpc") is None:
        hint = " ray:// needs the package grpcio here: pip install 'autocompress[cluster]'."
    return UsageError(
        f"--ray-address must be the address of a running Ray cluster; {address!r} cannot be joined: {cause}.{hint} "
        "`ray start --head` starts a cluster; without --ray-address the study runs on this machine."
    )


def _nodes(ray: Any) -> list[Mapping[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _resources(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the resources that users have named, which Ray's own are not."""
    own = ("CPU", "GPU", "memory", "object_store_memory")
    names = {name for node in nodes for name in node["Resources"] if name not in own}
    return sorted(name for name in names if not name.startswith(("node:", "accelerator_type:")))


def versions_here(runtimes: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python, of autocompress and of what it and the runtimes need; local suffixes left out."""
    families = {runtime.partition(":")[0] for runtime in runtimes}
    return versions_of(_packages(families))


def _packages(families: set[str]) -> list[str]:
    """Return the distributions that autocompress requires, with those of the runtimes' extras."""
    from packaging.requirements import Requirement

    try:
        required = importlib.metadata.requires("autocompress") or []
    except importlib.metadata.PackageNotFoundError:
        return [*ALWAYS]
    found = []
    for text in required:
        requirement = Requirement(text)
        extras = {""} | families
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            found.append(requirement.name)
    return [name for name in dict.fromkeys(found) if name != "autocompress"]


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages, of Python and of autocompress in this process."""
    return _teller(packages)()


def _teller(packages: Iterable[str]) -> Callable[[], dict[str, str]]:
    """Return a function that travels by value, to nodes which may have nothing of ours."""
    names = [name for name in packages if name not in ("python", "autocompress")]

    def versions() -> dict[str, str]:
        found = {"python": platform.python_version()}
        for name in names:
            try:
                found[name] = importlib.metadata.version(name).partition("+")[0]
            except importlib.metadata.PackageNotFoundError:
                found[name] = "missing"
        try:
            found["autocompress"] = importlib.import_module("autocompress").__version__
        except ImportError:
            found["autocompress"] = "missing"
        return found

    return versions


def different(ours: Mapping[str, str], theirs: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a phrase for each node that has another version of something than the driver has.

    >>> different({"torch": "2.14.1"}, {"10.0.0.2": {"torch": "2.13.0"}, "10.0.0.3": {"torch": "2.14.1"}})
    ['10.0.0.2 has torch 2.13.0 (here 2.14.1)']
    """
    phrases = []
    for node, found in theirs.items():
        wrong = [f"{name} {found.get(name, 'missing')} (here {ours[name]})" for name in ours]
        wrong = [text for name, text in zip(ours, wrong, strict=True) if found.get(name, "missing") != ours[name]]
        if wrong:
            phrases.append(f"{node} has {', '.join(wrong)}")
    return phrases


def check_versions(ours: Mapping[str, str], theirs: Mapping[str, Mapping[str, str]]) -> None:
    """Check that nodes have what the driver has.

    Raises:
        UsageError: some have not.
    """
    wrong = different(ours, theirs)
    if wrong:
        raise UsageError(
            "every node of a cluster must have the driver's versions of Python and packages; "
            f"{'; '.join(wrong)}. Install the same there, or take those nodes out of the cluster."
        )


def _same_versions(ray: Any, nodes: Sequence[Mapping[str, Any]], ours: Mapping[str, str]) -> None:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(_teller(ours))
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[ask.options(num_cpus=0, max_retries=1, scheduling_strategy=there).remote()] = node
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    if silent:
        names = ", ".join(_name(asked[future]) for future in silent)
        raise UsageError(f"every node of a cluster must answer within {ANSWER_S:g} s; these did not: {names}.")
    theirs = {}
    for future in answered:
        with suppress(ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError):  # it died meanwhile
            theirs[_name(asked[future])] = ray.get(future)
    check_versions(ours, theirs)


def _name(node: Mapping[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeManagerHostname']}, {node['NodeID'][:8]})"


def _unhurried(ray: Any, device: Device, progress: Progress) -> None:
    """Wait for the process that measures; tell where its machine gives it less than normal priority."""
    try:
        niceness = ray.get(device.actor.niceness.remote(), timeout=ANSWER_S)
    except ray.exceptions.GetTimeoutError as error:
        where = f"a node that offers {device.name!r}" if device.name else "this machine"
        raise UsageError(
            f"the process that measures must start within {ANSWER_S:g} s on {where}; it did not."
        ) from error
    if niceness > 0:
        where = device.name and f" on {device.name}"
        progress.milestone(
            f"the process that measures{where} has niceness {niceness}, so that others disturb it: "
            "start Ray on its node with RAY_worker_niceness=0 in the environment"
        )
