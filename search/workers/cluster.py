"""Joins a Ray that others have started, a cluster or the caller's own, checks it, and leaves it unchanged."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from ...errors import UsageError, gist
from ...storage.redact import plain_url, redacted
from ..options import Options
from ..progress import Progress
from .ray_session import authenticated, begun, by_client, reserved, running
from .remote_meter import MeterActor

CONNECT_S = 10.0
"""Seconds within which an address must answer."""

ANSWER_S = 120.0
"""Seconds within which a node must report its versions, or start the measuring process."""

ALWAYS = ("ray", "torch", "onnx", "onnxruntime", "cloudpickle", "numpy", "safetensors")
"""Packages that are compared if autocompress runs from a checkout that was not installed."""


UNGUARDED = (
    "this Ray cluster asks for no token, so anyone who reaches its ports can run code on its nodes: start it with "
    "RAY_AUTH_MODE=token, see https://docs.ray.io/en/latest/ray-security/token-auth.html"
)
"""Warning for a cluster that lets everyone in."""


@dataclass(frozen=True)
class Cluster:
    """A joined cluster.

    Attributes:
        cpus: how many trials it can train in parallel.
        ours: whether all its CPUs are for this study, as far as is known.
        devices: devices that measure: those asked for, or this machine.
        versions: versions that must be the same on every node.
        nodes: the CPUs of each node, and the bytes of memory for its workers.
    """

    cpus: int
    devices: tuple[MeterActor, ...]
    versions: Mapping[str, str]
    nodes: tuple[tuple[int, float], ...] = ()
    ours: bool = True


@contextmanager
def joined(options: Options, progress: Progress) -> Iterator[Cluster | None]:
    """Join the cluster of `Options.ray_address` while the context lasts, or use the caller's Ray.

    None if no address was given and the caller has no Ray, or if trials run in this process.

    Raises:
        UsageError: it cannot be reached, its nodes differ, none offers the device, or the caller's Ray has no free CPU.
    """
    address = options.ray_address
    if options.workers == 0:
        yield None
        return
    with ExitStack() as stack:
        theirs = running()
        if theirs:
            check_callers(options)
        elif address is None:
            stack.enter_context(reserved())
            yield None
            return
        else:
            _begin(address, stack)
            if not authenticated():
                progress.milestone(UNGUARDED)
        import ray

        cluster = _checked(ray, options)
        if theirs:
            cluster = _free_part(cluster, int(ray.available_resources().get("CPU", 0)))
        for device in cluster.devices:
            stack.callback(device.close)
        for device in cluster.devices:
            _check_niceness(ray, device, progress)
        yield cluster


def _free_part(cluster: Cluster, cpus: int) -> Cluster:
    """Return a cluster of which others use all but so many CPUs.

    >>> _free_part(Cluster(96, (), {}, nodes=((64, 96e9), (32, 16e9))), 70).nodes
    ((64, 96000000000.0), (6, 16000000000.0))
    """
    nodes, left = [], cpus
    for count, memory in cluster.nodes:
        nodes.append((min(count, left), memory))
        left -= nodes[-1][0]
    return replace(cluster, cpus=cpus, nodes=tuple(nodes), ours=False)


def _begin(address: str, stack: ExitStack) -> None:
    """Make this process a driver of a cluster, until the stack is left."""
    reachable(address)
    try:
        stack.enter_context(begun(address=address))
    except UsageError:
        raise
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError and others
        raise _unreachable(address, error) from error


def _checked(ray: Any, options: Options) -> Cluster:
    """Return the joined cluster, with its measuring processes started."""
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
    rooms = tuple((int(n["Resources"].get("CPU", 0)), float(n["Resources"].get("memory", "inf"))) for n in nodes)
    cpus = sum(each for each, _ in rooms)
    if not cpus:
        raise UsageError("a cluster must have a node with CPUs to train on; this one offers none (--num-cpus).")
    devices = tuple(map(MeterActor.on, options.measure_on)) or (MeterActor.here(),)
    return Cluster(cpus, devices, versions, rooms)


def check_callers(options: Options) -> None:
    """Check that the caller's Ray is the one asked for, and can be used.

    Raises:
        UsageError: another cluster was asked for, the caller is outside the cluster, or no CPU is free.
    """
    import ray

    if by_client():
        if not options.measure_on:
            raise UsageError(
                "a program that has joined a Ray cluster by ray:// is not on one of its nodes: --measure-on must name "
                "the resource of the node to measure on; it is empty."
            )
    elif options.ray_address not in (None, "auto") and not _same(str(options.ray_address)):
        raise UsageError(
            f"--ray-address must be the address of the Ray that this program has started, "
            f"{ray.get_runtime_context().gcs_address}; got {options.ray_address!r}. Leave it out, or call "
            "ray.shutdown() before."
        )
    if ray.available_resources().get("CPU", 0) < 1:
        raise UsageError(
            "trials need a free CPU in the Ray that this program has started; all are taken. Give --workers 0 to run "
            "them in this process, or stop what holds the CPUs."
        )


def _same(address: str) -> bool:
    """Return whether an address belongs to the Ray of this process."""
    import ray

    def resolved(text: str) -> tuple[str, str]:
        host, _, port = text.rpartition(":")
        with suppress(OSError):
            host = socket.gethostbyname(host.strip("[]"))
        return host, port

    mine, asked = resolved(ray.get_runtime_context().gcs_address), resolved(address)
    return mine == asked or (asked[0].startswith("127.") and mine[1] == asked[1])


def reachable(address: str) -> None:
    """Check that something listens at a cluster's address, without joining it.

    Raises:
        UsageError: nothing does.
    """
    match = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d+)", address)
    if address == "auto":
        return
    if match is None:
        raise UsageError(f"--ray-address must be auto, HOST:PORT or ray://HOST:PORT; got {plain_url(address)!r}.")
    try:
        socket.create_connection((match[1], int(match[2])), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> UsageError:
    cause = gist(error)
    hint = ""
    if address.startswith("ray://") and find_spec("grpc") is None:
        hint = " ray:// needs the package grpcio here: pip install 'autocompress[cluster]'."
    elif os.environ.get("RAY_AUTH_MODE") != "token":
        hint = " To join one that asks for a token, set RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN in the environment."
    return UsageError(
        f"--ray-address must be the address of a running Ray cluster; {plain_url(address)!r} cannot be "
        f"joined: {redacted(cause, address)}.{hint} "
        "`ray start --head` starts a cluster; without --ray-address the study runs on this machine."
    )


def _nodes(ray: Any) -> list[Mapping[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _resources(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the resources that users have named, without Ray's own."""
    own = ("CPU", "GPU", "memory", "object_store_memory")
    names = {name for node in nodes for name in node["Resources"] if name not in own}
    return sorted(name for name in names if not name.startswith(("node:", "accelerator_type:")))


def versions_here(runtimes: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python, autocompress and the packages it and the runtimes need, without local suffixes."""
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
    """Return a function that is pickled by value, for nodes that may not have autocompress."""
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
    """Return a phrase for each node with a version that differs from the driver's.

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
    """Check that nodes have the driver's versions.

    Raises:
        UsageError: some do not.
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


def _check_niceness(ray: Any, device: MeterActor, progress: Progress) -> None:
    """Wait for the measuring process; report if its machine gives it less than normal priority."""
    try:
        niceness = ray.get(device.actor.niceness.remote(), timeout=ANSWER_S)
    except ray.exceptions.GetTimeoutError as error:
        where = f"a node that offers {device.name!r}" if device.name else "this machine"
        raise UsageError(f"the measuring process must start within {ANSWER_S:g} s on {where}; it did not.") from error
    if niceness > 0:
        where = device.name and f" on {device.name}"
        progress.milestone(
            f"the measuring process{where} has niceness {niceness}, so others disturb it: "
            "start Ray on its node with RAY_worker_niceness=0 in the environment"
        )
