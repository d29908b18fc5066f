"""Workers share a task's data for real: what their own memory grows by is not the data."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.search import sharing
from autocompress.search.workers import RayWorkers, workers_for
from autocompress.spaces.candidate import Candidate

MEGABYTES = 200
"""In a tensor and as much in an array."""


def own_memory() -> int:
    """Return the megabytes that only this process has."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB", rollup, re.MULTILINE))) // 1024


class Before:
    """Becomes, where it is unpickled, the memory that a process has then."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Measure when this is unpickled."""
        return own_memory, ()


class Holder:
    """Holds much data, reads all of it, writes to a part on request, and tells how much memory became its own."""

    def __init__(self) -> None:
        self.meter = None
        self.before: Any = Before()  # pickled first
        self.data = torch.ones(MEGABYTES << 18)
        self.array = np.ones(MEGABYTES << 18, np.float32)

    def evaluate(self, request: Request) -> Outcome:
        """Return the sums of the data, and what memory grew by."""
        if request.folder.startswith("write"):
            self.data[:1000] = 3.0
            self.array[:1000] = 3.0
        total = self.data.sum(dtype=torch.float64).item() + self.array.sum(dtype=np.float64)
        return Infeasible(reason=f"{total:.0f} {own_memory() - self.before}", rung="build")


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder for temporary files of this test's processes; pytest's is too long for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="ac") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def workers(scratch: Path) -> Iterator[RayWorkers]:
    """Start two workers."""
    from ray import cloudpickle as rays

    for pickler in (cloudpickle, rays):
        pickler.register_pickle_by_value(sys.modules[__name__])
    with workers_for(Holder(), None, 2) as workers:  # type: ignore[arg-type]
        assert isinstance(workers, RayWorkers)
        yield workers


def told(workers: RayWorkers, *folders: str) -> dict[str, tuple[float, float]]:
    """Return what two workers tell at a time: the data's sum, and by how many megabytes their own memory grew."""
    for folder in folders:
        workers.submit(Request(folder=folder, candidate=Candidate(), epochs=0, timeout_s=60))
    found: dict[str, tuple[float, float]] = {}
    while len(found) < len(folders):
        for request, outcome in workers.wait(0.5):
            assert isinstance(outcome, Infeasible), outcome
            total, grown = map(float, outcome.reason.split())
            found[request.folder] = total, grown
    return found


def test_data_is_held_once_by_all_workers_of_a_node(workers: RayWorkers, scratch: Path) -> None:
    """Both read everything and own next to nothing of it; what one writes, the other does not see; nothing is left."""
    size = MEGABYTES << 18
    told(workers, "first", "second")  # both have touched all pages
    for total, grown in told(workers, "third", "fourth").values():
        assert total == 2 * size
        assert grown < MEGABYTES / 4
    folder = scratch / sharing.FOLDER
    assert [path.stat().st_size for path in folder.iterdir()] == [8 * size]
    mixed = told(workers, "write", "read")
    assert {name: total - 2 * size for name, (total, _) in mixed.items()} == {"write": 4000, "read": 0}
    workers.close()
    assert not any(folder.iterdir())
