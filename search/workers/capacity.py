"""How many trials to train in parallel, and on how many threads each, by the machine's cores and memory."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...evaluators.cgroup import available_cores, available_memory

if TYPE_CHECKING:
    from ...studies.task import Task
    from ..options import Options
    from .cluster import Cluster

ROUNDS = 3
"""Trials are proposed in at least this many rounds, so that most of them know the results of others."""

LEAST = 2
"""This many parallel trials are always allowed, if the machine can run them."""

SHARE = 0.8
"""Share of this machine's memory for all trials; the rest is for the search, for measuring, and for other programs."""

PROCESS_BYTES = 0.5e9
"""Memory of a worker before it has a network: Python with torch and a runtime."""

COPIES = 13
"""How many copies of a network's weights are in memory at a time: its own, its teacher's, gradients, moments, files.
(This and the next number were read off trials with a plain network of 128 MB and with ResNet-18.)
"""

ACTIVATIONS = 2
"""How many copies of all layers' outputs are in memory, for a training batch."""

SLOT_S = 4.0
"""Seconds that a trial has the device for itself to be timed, while the machine's trainers pause."""

STEP = 3
"""A training step takes as long as this many forward passes."""

GAIN = 4
"""With as many workers as this many times the training's seconds over a slot's, four fifths of the time is timing."""

FEW = 4
"""A trial's training is estimated only if it could limit the workers to more than this number."""

MOST_THREADS = 8
"""Threads of a worker at most: batches of small networks have no work for more."""

FILE = "memory.json"
"""File in a run directory with the memory that trials have needed."""

Node = tuple[int, float]
"""The cores of a machine, and the bytes of memory that its trials may have together."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many trials run in parallel.

    Attributes:
        workers: parallel trials; 0 if they run in this process.
        threads: threads on which each one trains.
        words: the same in words, and why there are not more; empty if they run in this process.
    """

    workers: int
    threads: int = 1
    words: str = ""


def of_run(task: Task, options: Options, cluster: Cluster | None = None) -> Capacity:
    """Return how many trials of a run to train in parallel: the number asked for, or what the machines allow.

    A cluster's workers train on one thread each if their number was given or others use the cluster too.

    Args:
        task: the study's task.
        options: the run.
        cluster: the joined cluster; None if the run is on this machine.
    """
    if options.workers == 0:
        return Capacity(workers=0)
    nodes = [(available_cores(), SHARE * available_memory())] if cluster is None else cluster.nodes
    if options.workers is not None:
        threads = _threads(options.workers, nodes, _most_threads() if cluster is None else 1)
        return Capacity(workers=options.workers, threads=threads, words=_words(options.workers, threads, nodes))
    most = trial_bytes(task, options.out)
    return capacity(
        min(most, options.trial_memory_bytes or most),
        options.trials,
        nodes,
        train_s=train_s(task, options) if sum(cores for cores, _ in nodes) > FEW else None,
        most_threads=_most_threads() if cluster is None or cluster.ours else 1,
    )


def capacity(
    trial_bytes: float,
    trials: int,
    nodes: Sequence[Node],
    *,
    train_s: float | None = None,
    most_threads: int = MOST_THREADS,
) -> Capacity:
    """Return how many trials to train in parallel: one per core, or fewer with several threads each.

    Args:
        trial_bytes: memory of one trial.
        trials: total number of trials in the study.
        nodes: the machines.
        train_s: seconds that a trial trains on one thread; None sets no limit.
        most_threads: threads of a worker at most.

    >>> print(capacity(2e9, 200, [(32, 51.2e9)]).words)
    25 workers × 1 thread on 32 cores, up to 50 of 51.2 GB: no more trials fit into memory
    >>> print(capacity(2e9, 24, [(32, 51.2e9)]).words)
    8 workers × 4 threads on 32 cores, up to 16 of 51.2 GB: most of 24 trials should know others' results
    >>> print(capacity(2e9, 300, [(64, 256e9)], train_s=10.0).words)
    10 workers × 6 threads on 64 cores, up to 20 of 256 GB: models are timed one at a time, which takes most of the time
    """
    cores, memory = sum(count for count, _ in nodes), sum(size for _, size in nodes)
    limits = {
        "": cores,
        "no more trials fit into memory": fitting(trial_bytes, nodes),
        f"most of {trials} trials should know others' results": max(LEAST, trials // ROUNDS),
        "models are timed one at a time, which takes most of the time": _occupying(train_s, cores),
    }
    why = min(limits, key=lambda reason: limits[reason])
    workers = max(1, limits[why])
    threads = _threads(workers, nodes, most_threads)
    need = f", up to {workers * trial_bytes / 1e9:.3g} of {memory / 1e9:.3g} GB"
    words = f"{_words(workers, threads, nodes)}{need}{': ' * bool(why)}{why}"
    return Capacity(workers=workers, threads=threads, words=words)


def _words(workers: int, threads: int, nodes: Sequence[Node]) -> str:
    """Return the workers, their threads and the cores in words."""
    cores = sum(count for count, _ in nodes)
    size = f"{workers} worker{'s' * (workers > 1)} × {threads} thread{'s' * (threads > 1)}"
    return f"{size} on {cores} core{'s' * (cores > 1)}"


def fitting(trial_bytes: float, nodes: Sequence[Node]) -> int:
    """Return how many trials of this memory fit: at most one per core, and at least one on each machine with cores.

    >>> fitting(2e9, [(64, 96e9), (32, 16e9)])
    56
    """
    return sum(min(cores, max(1, int(min(memory / trial_bytes, cores)))) for cores, memory in nodes if cores)


def _occupying(train_s: float | None, cores: int) -> int:
    """Return how many workers keep the device busy with timing for most of the time."""
    return cores if train_s is None else max(LEAST, math.ceil(GAIN * train_s / SLOT_S))


def _threads(workers: int, nodes: Sequence[Node], most: int) -> int:
    """Return how many threads each worker may have, so that all find cores."""
    enough = (n for n in range(most, 1, -1) if sum(cores // n for cores, _ in nodes) >= workers)
    return next(enough, 1)


def _most_threads() -> int:
    """Return the most threads of a worker; `OMP_NUM_THREADS` bounds them where it is set."""
    with suppress(KeyError, ValueError):
        return max(1, min(MOST_THREADS, int(os.environ["OMP_NUM_THREADS"])))
    return MOST_THREADS


def train_s(task: Task, options: Options) -> float:
    """Return about how many seconds a trial trains on one thread: timed with one batch, as if nothing were pruned."""
    import torch

    from ...compressors.batches import batches_in
    from ...studies.random_states import random_states_kept

    threads, was_training = torch.get_num_threads(), task.base.training
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), random_states_kept():
            task.base.eval()
            inputs = task.inputs(next(iter(task.train)))
            started = time.thread_time()
            task.base(*inputs)
            forward_s = time.thread_time() - started
    finally:
        task.base.train(was_training)
        torch.set_num_threads(threads)
    return STEP * forward_s * batches_in(task.train) * options.passes(task)[0]


def trial_bytes(task: Task, folder: Path) -> float:
    """Return the memory of a trial: the most that the run's trials had, or an estimate before there are any.

    The estimate uses the bytes of the network's weights and of all layers' outputs for a training batch. Data that all
    workers share in memory does not count.

    Args:
        task: the study's task.
        folder: run directory.
    """
    with suppress(OSError, ValueError, LookupError, TypeError):  # there are none, or others wrote it
        return float(json.loads((folder / FILE).read_text())["trial_bytes"])
    import torch

    from ...studies.random_states import random_states_kept

    outputs = 0

    def add(module: object, inputs: object, output: object) -> None:
        nonlocal outputs
        outputs += _bytes(output)

    hooks = [module.register_forward_hook(add) for module in task.base.modules() if not any(module.children())]
    was_training = task.base.training
    try:
        with torch.no_grad(), random_states_kept():
            task.base.eval()(*task.examples)
            batch = task.inputs(next(iter(task.train)))
    finally:
        task.base.train(was_training)
        for hook in hooks:
            hook.remove()
    examples = len(batch[0]) / max(1, len(task.examples[0]))
    weights = sum(map(_bytes, task.model.state_dict().values()))
    return PROCESS_BYTES + COPIES * weights + ACTIVATIONS * examples * outputs


def _bytes(value: object) -> int:
    import torch

    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 0
