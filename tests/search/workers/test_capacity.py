"""Cores, memory and trials say how many trials run at a time, and on how many threads; the choice is reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.evaluators.cgroup import available_cores
from autocompress.search.options import Options
from autocompress.search.workers.capacity import FILE, capacity, of_run, train_s, trial_bytes
from autocompress.studies.task import Task


def task(width: int = 64, batch: int = 32) -> Task:
    """Return a plain network with a batch of data."""
    net = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))
    data = [(torch.zeros(batch, width), torch.zeros(batch).long())]
    return Task(net, torch.zeros(1, width), data, data)


@pytest.mark.parametrize(
    ("trial", "trials", "cores", "memory", "workers", "threads", "why"),
    [
        (1e9, 24, 2, 16e9, 2, 1, ""),
        (1e9, 4, 2, 16e9, 2, 1, ""),
        (1e9, 24, 1, 16e9, 1, 1, ""),
        (1e9, 300, 64, 256e9, 64, 1, ""),
        (8e9, 300, 64, 51.2e9, 6, 8, "no more trials fit into memory"),
        (1e9, 24, 64, 256e9, 8, 8, "most of 24 trials should know others' results"),
        (1e9, 24, 12, 256e9, 8, 1, "most of 24 trials should know others' results"),
        (9e9, 24, 4, 8e9, 1, 4, "no more trials fit into memory"),
    ],
)
def test_cores_are_used_as_memory_and_trials_allow(
    trial: float, trials: int, cores: int, memory: float, workers: int, threads: int, why: str
) -> None:
    """A worker for each core, unless they would not fit or most trials would be blind; what is left becomes threads."""
    found = capacity(trial, trials, [(cores, memory)])
    assert (found.workers, found.threads) == (workers, threads)
    assert found.words.partition(" GB")[2] == (why and f": {why}")
    assert found.words.startswith(f"{workers} worker")


def test_short_trials_need_few_workers() -> None:
    """Where trials train for seconds, more workers would wait for the device; longer training brings them back."""
    short, long = (capacity(1e9, 3000, [(64, 256e9)], train_s=seconds) for seconds in (6.0, 600.0))
    assert short.workers * short.threads > 32
    assert "timed one at a time" in short.words
    assert (long.workers, long.threads) == (64, 1)


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (3, 2), (8, 1), (20, 1)])
def test_a_given_number_of_workers_shares_the_cores(
    workers: int, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's number is taken; each worker gets the cores that are left for it."""
    monkeypatch.setattr("autocompress.search.workers.capacity.available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = of_run(task(), Options(target_ms=1.0, out=tmp_path, workers=workers))
    assert (found.workers, found.threads) == (workers, threads)
    assert found.words.endswith("on 8 cores")


def test_trials_in_this_process_need_no_words(tmp_path: Path) -> None:
    """Without workers there is nothing to choose."""
    assert of_run(task(), Options(target_ms=1.0, out=tmp_path, workers=0)).words == ""


def test_threads_fit_on_every_node() -> None:
    """A worker has its threads on one node: eight of 64 and 32 CPUs are placed with ten threads, not twelve."""
    nodes = [(64, 256e9), (32, 256e9)]
    assert capacity(1e9, 24, nodes, most_threads=64).threads == 10
    assert capacity(1e9, 24, nodes, most_threads=1).threads == 1
    assert capacity(2e9, 3000, [(64, 96e9), (32, 16e9), (0, 512e9)]).workers == 48 + 8


@pytest.mark.parametrize(("bound", "threads"), [(None, 6), ("2", 2), ("many", 6)])
def test_the_environment_bounds_the_threads(
    bound: str | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`OMP_NUM_THREADS` holds for workers too."""
    monkeypatch.setattr("autocompress.search.workers.capacity.available_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if bound is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", bound)
    assert of_run(task(), Options(target_ms=1.0, out=tmp_path, workers=1)).threads == threads


def test_a_longer_training_is_estimated_longer(tmp_path: Path) -> None:
    """The seconds of a trial's training grow with the network and with the passes; the network is left as it was."""
    small, wide = task(batch=512), task(width=2048, batch=512)
    short, long = (Options(target_ms=1.0, out=tmp_path, epochs=passes) for passes in (1.0, 50.0))
    wide.model.train()
    assert 0 < train_s(small, short) < train_s(wide, short) < train_s(wide, long)
    assert wide.base.training


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
    assert limited.workers == available_cores()


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
