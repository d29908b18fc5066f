"""Workers share a task's data for real: what their own memory grows by is not the data."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch

from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.evaluators.scratch import FOLDER
from autocompress.search.workers.ray_workers import RayWorkers
from autocompress.search.workers.start import workers_for
from autocompress.spaces.candidate import Candidate

MEGABYTES = 200
"""In a tensor and as much in an array."""


SIZE = MEGABYTES << 18
"""Numbers in each."""

KIND: Any = {torch.Tensor: torch.float64, np.ndarray: np.float64}


def own_memory() -> int:
    """Return the megabytes of this process that are not a file's."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(re.findall(r"^Anonymous: +(\d+) kB", rollup, re.MULTILINE)[0]) // 1024


class Holder:
    """Holds much data, reads all of it, writes to a part on request, and tells how much memory it gives back."""

    def __init__(self) -> None:
        self.data = [torch.ones(SIZE), np.ones(SIZE, np.float32)]

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Return the sum of the data, and by how many megabytes memory shrinks when that is let go of."""
        if request.folder.startswith("write"):
            for part in self.data:
                part[:1000] = 3.0
        total, before = sum(float(part.sum(dtype=KIND[type(part)])) for part in self.data), own_memory()
        if request.folder.startswith("drop"):
            self.data.clear()
        return Infeasible(reason=f"{total:.0f} {before - own_memory()}", rung="build")


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
    with workers_for(Holder(), BARE, 2) as workers:
        assert isinstance(workers, RayWorkers)
        while workers.free() < 2:
            time.sleep(0.1)
        yield workers


def told(workers: RayWorkers, *folders: str) -> dict[str, tuple[float, float]]:
    """Return what two workers tell at a time: by how much the data's sum is off, and the memory it gave back."""
    for folder in folders:
        workers.submit(Request(folder=folder, candidate=Candidate(), epochs=0, timeout_s=60))
    found: dict[str, tuple[float, float]] = {}
    while len(found) < len(folders):
        for request, outcome in workers.wait(0.5):
            assert isinstance(outcome, Infeasible), outcome
            total, freed = map(float, outcome.reason.split())
            found[request.folder] = total - 2 * SIZE, freed
    return found


def test_data_is_held_once_by_all_workers_of_a_node(workers: RayWorkers, scratch: Path) -> None:
    """Both read everything and own next to nothing of it; what one writes, the other does not see; nothing is left."""
    assert [off for off, _ in told(workers, "read", "read too").values()] == [0, 0]
    folder = scratch / FOLDER
    assert [path.stat().st_size for path in folder.iterdir()] == [8 * SIZE]
    mixed = told(workers, "write", "read")
    assert {name: off for name, (off, _) in mixed.items()} == {"write": 4000, "read": 0}
    for _, freed in told(workers, "drop", "drop too").values():
        assert freed < MEGABYTES / 4
    workers.close()
    assert not any(folder.iterdir())
