"""One study for two devices of a cluster: each has its own times and its own front, and there is one for both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas
import pytest

from autocompress.evaluators.measurement import Measurement
from autocompress.evaluators.outcome_json import from_json
from autocompress.evaluators.runtimes.fake import ENVIRONMENT
from autocompress.search.workers.ray_session import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Command = Callable[..., subprocess.CompletedProcess[str]]

DEVICES = {"gpu0": "20000,10,4", "edge": "30000,20,40"}
"""Nanoseconds of a layer, of a weight in float and of one in INT8, which is slower on the edge than float."""

TARGET_MS = 0.4

NARROW = """
import torch
from my_study import Net, trained

def task():
    torch.manual_seed(0)
    return trained(Net(32, 32, 32))
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a node that trains and a node for each device."""
    from ray.cluster_utils import Cluster

    with environment():
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        for name, times in DEVICES.items():
            nodes.add_node(num_cpus=0, resources={name: 1}, env_vars={ENVIRONMENT: times})
        yield nodes.address
        nodes.shutdown()


def line(address: str, *devices: str, trials: int) -> list[object]:
    """Return the command's arguments."""
    on = [word for name in devices for word in ("--measure-on", name)]
    given = ["narrow.py", "--target-latency", f"{TARGET_MS}ms", "--runtime", "fake", "--ray-address", address, *on]
    return [*given, "--out", "run", "--trials", trials, "--epochs", 0.2, "--final-epochs", 0.2]


def record(out: Path, row: pandas.Series) -> dict[str, Measurement]:
    """Return what is kept of a model, by device."""
    measurements = from_json((out / str(row.path) / "measurement.json").read_text())
    assert isinstance(measurements, tuple)
    return {each.deployment.device: each for each in measurements}


def test_a_model_meets_the_target_when_it_does_on_every_device(address: str, folder: Path, warm: Command) -> None:
    """Each device has its baseline, its front and its file; what only one runs in time is not on the front for all."""
    (folder / "narrow.py").write_text(NARROW)
    out = folder / "run"
    done = warm(folder, *line(address, *DEVICES, trials=5))
    assert done.returncode == 0, done.stderr
    front = pandas.read_csv(out / "pareto.csv")
    assert set(front.device[1:]) == {"edge"}  # which is slower
    assert front.meets_target[1:].all()
    assert (front.latency_high_ms[1:] <= TARGET_MS).all()
    assert (front.latency_ms_edge == front.latency_ms).all()
    alone = {name: pandas.read_csv(out / f"pareto-{name}.csv") for name in DEVICES}
    for name, table in alone.items():
        assert set(table.device) == {name}
        assert f"On {name} alone: " in done.stdout
        for row in table.itertuples():
            by_device = record(out, row)
            assert set(by_device) == set(DEVICES)
            assert round(by_device[name].latency.median_ms, 4) == row.latency_ms
            assert by_device[name].latency.device == name
    integer = [row for row in alone["gpu0"][1:].itertuples() if record(out, row)["edge"].latency.high_ms > TARGET_MS]
    assert integer, "what is fast in INT8 on one device is on that one's front"
    assert {row.id for row in integer}.isdisjoint(front.id)
    calibrated = json.loads((out / "calibration.json").read_text())
    baseline = record(out, front.iloc[0])
    assert baseline["gpu0"].latency.baseline_ms == calibrated["median_ms"]
    assert baseline["edge"].latency.baseline_ms == calibrated["elsewhere"]["edge"]["median_ms"]
    assert baseline["edge"].latency.baseline_ms > 1.5 * baseline["gpu0"].latency.baseline_ms

    again = warm(folder, *line(address, *DEVICES, trials=6))
    assert again.returncode == 0, again.stderr
    trials = pandas.read_csv(out / "trials.csv")
    assert len(trials) == 6
    other = warm(folder, *line(address, "edge", trials=6))
    assert other.returncode == 2
    assert "has device 'gpu0, edge', this command asks for 'edge'" in " ".join(other.stderr.split())


def test_a_device_that_is_not_there_is_named(address: str, folder: Path, warm: Command) -> None:
    """Where one of several is missing, nothing is measured; the message tells what is offered, and how to offer it."""
    (folder / "narrow.py").write_text(NARROW)
    done = warm(folder, *line(address, "edge", "phone", trials=1))
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert "--measure-on must name a resource that a node of the cluster offers; got 'phone'" in told
    assert "edge, gpu0" in told
    assert "--resources '{\"phone\": 1}'" in told
    assert not (folder / "run" / "study.json").exists()
