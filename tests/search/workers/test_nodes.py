"""Two nodes that share no folder: files go from one to the other through a store, and data lies once on each."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Outcome
from autocompress.evaluators.scratch import FOLDER
from autocompress.search.options import Options
from autocompress.search.progress import Silent
from autocompress.search.workers.base import Workers
from autocompress.search.workers.cluster import joined
from autocompress.search.workers.ray_session import environment
from autocompress.search.workers.shipping import WithArtifacts, fetch_outcome
from autocompress.search.workers.start import workers_for
from autocompress.spaces.candidate import Candidate
from autocompress.storage.artifacts import RemoteArtifacts, check_artifacts

pytestmark = pytest.mark.timeout(500)

NOWHERE = Path("/nowhere")
"""The run directory, which is on the driver's node."""


class Travelling:
    """Writes the node's folder for temporary files below what its ancestor wrote; holds some data."""

    def __init__(self) -> None:
        self.data = np.arange(1 << 20)

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Write, and stay for a while, so that the other node has the other request."""
        ancestor = host.folder / (request.ancestor or "none")
        before = ancestor.read_text() if ancestor.exists() else ""
        folder = host.folder / request.folder
        folder.mkdir(parents=True)
        (folder / "way").write_text(f"{before}{tempfile.gettempdir()}\n")
        assert self.data.sum() == (1 << 19) * ((1 << 20) - 1)
        time.sleep(1.0)
        return AnalyticEvaluator(3).evaluate(request)


@pytest.fixture
def folders() -> Iterator[tuple[Path, Path]]:
    """Return a folder for temporary files for each node; pytest's are too long for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="n1") as one, tempfile.TemporaryDirectory(prefix="n2") as two:
        yield Path(one), Path(two)


@pytest.fixture
def address(folders: tuple[Path, Path]) -> Iterator[str]:
    """Start two nodes of one CPU each."""
    from ray import cloudpickle as rays
    from ray.cluster_utils import Cluster

    for pickler in (cloudpickle, rays):
        pickler.register_pickle_by_value(sys.modules[__name__])
    one, two = ({"num_cpus": 1, "env_vars": {"TMPDIR": str(folder)}} for folder in folders)
    with environment():
        nodes = Cluster(initialize_head=True, head_node_args=one)
        nodes.add_node(**two)
        yield nodes.address
        nodes.shutdown()


def ways(workers: Workers, store: RemoteArtifacts, here: Path, *asked: tuple[str, str]) -> list[list[str]]:
    """Evaluate requests at a time, each with its ancestor; return the ways that their files have come."""
    requests = [Request(folder=folder, ancestor=a, candidate=Candidate(), epochs=0, test=True) for folder, a in asked]
    for request in requests:
        workers.submit(request)
    ended = 0
    while ended < len(requests):
        for request, outcome in workers.wait(0.5):
            assert isinstance(outcome, tuple), outcome
            if request.folder.startswith("models/"):
                assert fetch_outcome(store, here, request, outcome) == outcome
            else:
                assert store.get(here, request.folder)
            ended += 1
    return [(here / request.folder / "way").read_text().split() for request in requests]


@pytest.mark.slow
def test_what_one_node_made_the_other_goes_on_from(address: str, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Heirs on both nodes have their ancestor's file; each node holds the data once, and in the end nothing."""
    store = RemoteArtifacts(check_artifacts(f"file://{tmp_path}/store", None))
    options = Options(target_ms=4.0, out=tmp_path / "run", ray_address=address)
    with (
        joined(options, Silent()) as cluster,
        workers_for(WithArtifacts(Travelling(), store), Host(folder=NOWHERE), 2, cluster) as workers,
    ):
        while workers.free() < 2:
            time.sleep(0.1)
        [first], [second] = ways(workers, store, tmp_path / "run", ("trials/1", ""), ("trials/2", ""))
        nodes = {str(folder) for folder in folders}
        assert {first, second} == nodes
        heirs = ways(workers, store, tmp_path / "run", ("models/3", "trials/1/way"), ("models/4", "trials/1/way"))
        assert {way[0] for way in heirs} == {first}
        assert {way[1] for way in heirs} == nodes
        for folder in folders:
            [data] = (path for path in (folder / FOLDER).iterdir() if path.is_file())
            assert data.stat().st_size == 8 << 20
    assert not any(path for folder in folders for path in (folder / FOLDER).iterdir())
    assert {path.parent.name for path in (tmp_path / "store").rglob("manifest.json")} == {"1", "2"}
