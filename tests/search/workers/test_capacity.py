"""Without a number of workers, cores and memory say how many trials run at a time; idle cores are reported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.search.options import Options
from autocompress.search.workers.capacity import FILE, capacity, of_run, trial_bytes
from autocompress.studies.task import Task


def task(width: int = 64, batch: int = 32) -> Task:
    """Return a plain network with a batch of data."""
    net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
    data = [(torch.zeros(batch, width), torch.zeros(batch).long())]
    return Task(net, torch.zeros(1, width), data, data)


@pytest.mark.parametrize(
    ("trial", "trials", "cores", "memory", "workers", "idle"),
    [
        (1e9, 24, 2, 16e9, 2, ""),
        (1e9, 4, 2, 16e9, 2, ""),
        (1e9, 24, 1, 16e9, 1, ""),
        (1e9, 300, 64, 256e9, 64, ""),
        (8e9, 300, 64, 64e9, 6, r"6 of 64 cores train, because a trial may need 8 of 64 GB of memory: .*--workers"),
        (1e9, 24, 64, 256e9, 8, r"8 of 64 cores train, because most of 24 trials .*: --workers 64, or more --trials"),
        (9e9, 24, 4, 8e9, 1, r"1 of 4 cores train, because a trial may need 9 of 8 GB"),
    ],
)
def test_cores_are_used_as_memory_and_trials_allow(
    trial: float, trials: int, cores: int, memory: float, workers: int, idle: str
) -> None:
    """A worker for each core, unless they would not fit, or most trials would be blind, which is reported."""
    found = capacity(trial, trials, cores=cores, memory=memory)
    assert found.workers == workers
    assert re.fullmatch(f"{idle}.*" if idle else "", found.idle)


def test_larger_networks_and_batches_need_more(tmp_path: Path) -> None:
    """The guess grows with weights and with what a batch leaves in memory, and leaves the network as it was."""
    small, wide, long = task(), task(width=2048), task(batch=4096)
    small.model.train()
    assert trial_bytes(small, tmp_path) < trial_bytes(wide, tmp_path)
    assert trial_bytes(small, tmp_path) < trial_bytes(long, tmp_path)
    assert small.model.training
    assert not any(module._forward_hooks for module in small.model.modules())


def test_what_trials_needed_takes_the_place_of_a_guess(tmp_path: Path) -> None:
    """A run that has ended has kept it; --trial-memory is the most in any case; a number of the user's is taken."""
    (tmp_path / FILE).write_text(json.dumps({"trial_bytes": 7e9}))
    assert trial_bytes(task(), tmp_path) == 7e9
    options = {"target_ms": 1.0, "out": tmp_path, "trials": 3000}
    assert of_run(task(), Options(**options, workers=5)).workers == 5  # type: ignore[arg-type]
    (tmp_path / FILE).write_text(json.dumps({"trial_bytes": 1e15}))
    assert of_run(task(), Options(**options)).workers == 1  # type: ignore[arg-type]
    limited = of_run(task(), Options(**options, trial_memory_bytes=1e6))  # type: ignore[arg-type]
    assert limited.workers >= 1
    assert not limited.idle


def test_a_process_knows_what_it_needed() -> None:
    """What was given back counts; what files hold does not."""
    code = (
        "from autocompress.evaluators.meters.serve_once import peak_so_far; "
        "from autocompress.search.workers.memory_limit import own_peak; "
        "before = own_peak(); block = bytearray(96 << 20); del block; "
        "print(before + (64 << 20) < own_peak() < peak_so_far())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"  # this process may have needed more before
