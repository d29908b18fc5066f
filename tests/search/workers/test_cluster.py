"""A running Ray cluster is joined, checked, used, and left as it was; its nodes may die meanwhile."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from autocompress.errors import InfeasibleError, UsageError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.ladder.deployments import time_deployments
from autocompress.evaluators.measurement import Deployment, Latency, Outcome
from autocompress.evaluators.meters.latency import CAREFUL, SEARCH, Calibration, Plan
from autocompress.evaluators.runtime import Kernel
from autocompress.search.options import Options
from autocompress.search.progress import Silent
from autocompress.search.workers import cluster as module
from autocompress.search.workers.base import LostTrial, Result, Workers
from autocompress.search.workers.cluster import Cluster, check_versions, joined, reachable, versions_here
from autocompress.search.workers.ray_session import environment
from autocompress.search.workers.start import workers_for
from autocompress.spaces.candidate import Candidate

pytestmark = pytest.mark.timeout(500)

NAME = "jetson"


Nodes = Any
"""Ray's own cluster on one machine, for tests: a process of its own for each node."""


class There:
    """A meter that tells on which node it measured, as the latency's runtime."""

    def __init__(self, latency: Latency) -> None:
        self.latency = latency

    def calibrate(self, plan: Plan = CAREFUL, *, timeout_s: float | None = None) -> Calibration:
        """Return the node as the environment."""
        return Calibration(median_ms=1.0, low_ms=1.0, high_ms=1.0, windows=(), environment={"node": node()})

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Return the node as the environment; of what is slow also from when until when it took."""
        from dataclasses import replace

        environment, began = {"node": node()}, time.time()
        if artefact == b"slow":
            time.sleep(2.0)
            environment |= {"from": f"{began}", "until": f"{time.time()}"}
        return replace(self.latency, environment=environment)

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return the length of the file."""
        return len(artefact)

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        """Return the length of the file."""
        return float(len(artefact))

    def kernels(self, artefact: bytes, *, runtime: str | None = None) -> list[Kernel]:
        """Return a kernel, or end the process as a runtime may."""
        if artefact == b"crash":
            os._exit(1)
        return [Kernel(name=node(), kind="conv")]


class Measured:
    """Has a meter's latency; never ends on other nodes than one, where that is given."""

    def __init__(self, only: str = "") -> None:
        self.only = only

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Return the analytic measurement with the latency of the meter, and the node that trained."""
        from dataclasses import replace

        (measured,) = AnalyticEvaluator(3).evaluate(request)
        if self.only and node() != self.only:
            time.sleep(3600)
        [meter] = host.meters.values()
        latency = meter.measure(b"", SEARCH)
        return (replace(measured, latency=latency, file=f"model-{node()}.onnx"),)


def node() -> str:
    """Return the id of the node that this runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def latency() -> Latency:
    """Return the latency of the unchanged network."""
    (measured,) = AnalyticEvaluator(3).evaluate(Request(folder="", candidate=Candidate(), epochs=0))
    return measured.latency


@dataclass
class Told(Silent):
    """Keeps its lines."""

    texts: list[str] = field(default_factory=list)

    def milestone(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Start a head that trains on one CPU, and a node that has the device and trains nothing."""
    from ray import cloudpickle as rays
    from ray.cluster_utils import Cluster as Simulated

    for pickler in (cloudpickle, rays):
        pickler.register_pickle_by_value(sys.modules[__name__])
    with environment():
        simulated = Simulated(initialize_head=True, head_node_args={"num_cpus": 1})
        simulated.add_node(num_cpus=0, resources={NAME: 1})
        yield simulated
        simulated.shutdown()


@pytest.fixture
def asked(nodes: Nodes, tmp_path: Path) -> Callable[..., Options]:
    """Return options for the cluster."""

    def options(**changes: Any) -> Options:
        return Options(**{"target_ms": 4.0, "out": tmp_path, "ray_address": nodes.address, **changes})

    return options


def gathered(workers: Workers, count: int, *, seconds: float = 240.0) -> list[Result]:
    """Wait for so many results."""
    found: list[Result] = []
    end = time.monotonic() + seconds
    while len(found) < count:
        found += workers.wait(0.5)
        assert time.monotonic() < end, workers.blocked_reason() or "nothing happened"
    return found


def until(ask: Callable[[], object], *, seconds: float = 240.0) -> None:
    """Wait for a true answer."""
    end = time.monotonic() + seconds
    while not ask():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def submitted(workers: Workers, count: int) -> None:
    """Submit so many requests as soon as there are workers."""
    end = time.monotonic() + 240
    for i in range(count):
        while not workers.free():
            assert time.monotonic() < end, workers.blocked_reason()
            time.sleep(0.05)
        workers.submit(Request(folder=f"trials/{i}", candidate=Candidate(), epochs=0))


def alive(simulated: Nodes) -> int:
    """Return how many of the nodes live."""
    return len(simulated.global_state._live_node_ids())


@contextmanager
def served(cluster: str) -> Iterator[str]:
    """Start the server that lets others in from outside; return its address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port), "--address", cluster, "--mode", "specific-server"]
    server = subprocess.Popen(
        [sys.executable, "-m", "ray.util.client.server", *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: not refused(port))
        yield f"ray://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def refused(port: int) -> bool:
    """Return whether nothing listens to a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


@pytest.mark.slow
def test_everything_is_measured_on_the_node_with_the_device(nodes: Nodes, asked: Callable[..., Options]) -> None:
    """Trials are trained on one node and timed on the other, as are the baseline, memory and kernels."""
    device = next(iter(nodes.worker_nodes)).node_id
    told = Told()
    with joined(asked(measure_on=(NAME,)), told) as cluster:
        assert isinstance(cluster, Cluster)
        assert (cluster.cpus, [cpus for cpus, _ in cluster.nodes if cpus]) == (1, [1])
        meter = cluster.devices[0].meter(There(latency()))
        assert meter.calibrate().environment == {"node": device}
        assert meter.measure(b"", SEARCH).environment == {"node": device}
        assert meter.kernels(b"")[0].name == device
        assert meter.memory(b"four") == 4
        with workers_for(Measured(), Host(meters={NAME: meter}), None, cluster) as workers:
            submitted(workers, 1)
            outcomes = [outcome for _, outcome in gathered(workers, 1)]
    assert {m[0].file for m in outcomes if isinstance(m, tuple)} == {f"model-{nodes.head_node.node_id}.onnx"}
    assert {m[0].latency.environment["node"] for m in outcomes if isinstance(m, tuple)} == {device}
    assert told.texts[0] == module.UNGUARDED  # this one asks for no token
    assert bool(told.texts[1:]) == (os.nice(0) > 0)  # of Ray's processes, which have this one's priority
    assert alive(nodes) == 2


@pytest.mark.slow
def test_a_profile_that_crashes_costs_itself_only(asked: Callable[..., Options]) -> None:
    """A runtime that ends the device's process is a reason; the process is there again for the next model."""
    with joined(asked(measure_on=(NAME,)), Silent()) as cluster:
        assert isinstance(cluster, Cluster)
        meter = cluster.devices[0].meter(There(latency()))
        with pytest.raises(InfeasibleError, match="crashed while the model was profiled"):
            meter.kernels(b"crash")
        assert meter.memory(b"four") == 4


@pytest.mark.slow
def test_a_device_that_nobody_offers_is_refused(asked: Callable[..., Options]) -> None:
    """The message names the option, the value, what there is, and how a node offers it."""
    with (
        pytest.raises(UsageError, match=r"--measure-on must name .*; got 'phone', .*: jetson\. .*--resources"),
        joined(asked(measure_on=("phone",)), Silent()),
    ):
        pytest.fail("it was joined")


@pytest.mark.slow
def test_other_versions_are_refused(asked: Callable[..., Options], monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with another version of something, or without it, is named with both versions."""
    ours = {**versions_here(["onnxruntime"]), "torch": "1.0"}
    monkeypatch.setattr(module, "versions_here", lambda runtimes: ours)
    with (
        pytest.raises(UsageError, match=r"node [\d.]+ \(.*\) has torch 2[\d.]+ \(here 1\.0\).*Install the same"),
        joined(asked(), Silent()),
    ):
        pytest.fail("it was joined")


def test_versions_are_those_of_what_is_needed() -> None:
    """Python, autocompress, its requirements and those of the study's runtimes are compared, and nothing else."""
    versions = versions_here(["onnxruntime", "openvino:bf16"])
    assert {"python", "autocompress", "ray", "torch", "onnxruntime", "openvino"} <= versions.keys()
    assert "mnn" not in versions
    assert "+" not in versions["torch"]
    check_versions(versions, {"node a": versions})
    with pytest.raises(UsageError, match=r"node b has ray missing \(here "):
        check_versions(versions, {"node a": versions, "node b": {**versions, "ray": "missing"}})


@pytest.mark.parametrize("address", ["somewhere", "http://a:1", "ray://", "a:b"])
def test_what_is_no_address_is_refused(address: str) -> None:
    """The message names the forms that there are."""
    with pytest.raises(UsageError, match=r"--ray-address must be auto, HOST:PORT or ray://HOST:PORT; got"):
        reachable(address)


def test_a_cluster_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    """The message names the address, the cause and two ways out; nothing waits for minutes."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        options = Options(target_ms=4.0, out=tmp_path, ray_address=address)
        with (
            pytest.raises(UsageError, match=rf"{address}' cannot be joined: .*refused.*ray start --head.*without"),
            joined(options, Silent()),
        ):
            pytest.fail("it was joined")


@pytest.mark.slow
def test_a_dead_node_costs_its_running_trials(nodes: Nodes, asked: Callable[..., Options]) -> None:
    """Its trials are lost, the others continue; the missing place is reported, and a new node gets the worker."""
    extra = nodes.add_node(num_cpus=1)
    with (
        joined(asked(measure_on=(NAME,), workers=2), Silent()) as cluster,
        workers_for(Measured(nodes.head_node.node_id), Host(meters={NAME: There(latency())}), 2, cluster) as workers,
    ):
        until(lambda: not workers.blocked_reason() and workers.free() == 2)  # else one of them may get both
        submitted(workers, 2)
        nodes.remove_node(extra, allow_graceful=False)
        outcomes = [outcome for _, outcome in gathered(workers, 2)]
        assert {type(outcome) for outcome in outcomes} == {LostTrial, tuple}
        until(lambda: "1 of 2 workers wait for a free CPU" in workers.blocked_reason())
        submitted(workers, 1)
        assert isinstance(gathered(workers, 1)[0][1], tuple)
        extra = nodes.add_node(num_cpus=1)
        until(lambda: not workers.blocked_reason() and workers.free() == 2)
    nodes.remove_node(extra)


@pytest.mark.slow
def test_a_device_that_goes_away_is_waited_for(nodes: Nodes, asked: Callable[..., Options]) -> None:
    """While no node offers it, a message says so; measuring continues where it is offered next."""
    device = nodes.add_node(num_cpus=0, resources={"phone": 1})
    told: list[str] = []
    with joined(asked(measure_on=("phone",)), Silent()) as cluster:
        assert isinstance(cluster, Cluster)
        meter = cluster.devices[0].meter(There(latency()), told.append)
        assert meter.memory(b"four") == 4
        nodes.remove_node(device, allow_graceful=False)
        with ThreadPoolExecutor() as threads:
            answer = threads.submit(meter.memory, b"three")
            until(lambda: "measuring waits for a node that offers phone" in told)
            device = nodes.add_node(num_cpus=0, resources={"phone": 1})
            assert answer.result(timeout=240) == 5
    nodes.remove_node(device)


@pytest.mark.slow
def test_devices_measure_at_the_same_time(nodes: Nodes, asked: Callable[..., Options]) -> None:
    """A candidate is timed on all devices at once, on each by a process of its own, and says where that was."""
    device = nodes.add_node(num_cpus=0, resources={"phone": 1})
    with joined(asked(measure_on=(NAME, "phone")), Silent()) as cluster:
        assert isinstance(cluster, Cluster)
        meters = {it.name: it.meter(There(latency())) for it in cluster.devices}
        assert list(meters) == [NAME, "phone"]
        found = time_deployments(meters, {Deployment("ort", name): b"slow" for name in meters}, {}, 60.0)
    assert [(place.device, found[place].device) for place in found] == [(NAME, NAME), ("phone", "phone")]
    each = [latency.environment for latency in found.values()]
    assert len({environment["node"] for environment in each}) == 2
    assert max(float(environment["from"]) for environment in each) < min(float(e["until"]) for e in each)
    nodes.remove_node(device)


@pytest.mark.slow
def test_a_ray_client_joins_from_outside(nodes: Nodes, asked: Callable[..., Options]) -> None:
    """A machine that is no node of the cluster has its trials run there, and needs a device that is."""
    with pytest.raises(UsageError, match="needs --measure-on NAME"):
        asked(ray_address="ray://127.0.0.1:10001")
    with (
        served(nodes.address) as address,
        joined(asked(ray_address=address, measure_on=(NAME,)), Silent()) as cluster,
        workers_for(Measured(), Host(meters={NAME: There(latency())}), None, cluster) as workers,
    ):
        submitted(workers, 1)
        assert all(isinstance(outcome, tuple) for _, outcome in gathered(workers, 1))
