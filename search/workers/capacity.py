"""The default number of parallel trials on this machine, by its cores and memory."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...evaluators.cgroup import available_cores, available_memory

if TYPE_CHECKING:
    from ...studies.task import Task
    from ..options import Options

ROUNDS = 3
"""Trials are proposed in at least this many rounds, so that most of them know the results of others."""

LEAST = 2
"""This many parallel trials are always allowed, if the machine can run them."""

SHARE = 0.8
"""Share of the memory for all trials; the rest is for the search, for measuring, and for other programs."""

PROCESS_BYTES = 0.5e9
"""Memory of a worker before it has a network: Python with torch and a runtime."""

COPIES = 13
"""How many copies of a network's weights are in memory at a time: its own, its teacher's, gradients, moments, files.
(This and the next number were read off trials with a plain network of 128 MB and with ResNet-18.)
"""

ACTIVATIONS = 2
"""How many copies of all layers' outputs are in memory, for a training batch."""

FILE = "memory.json"
"""File in a run directory with the memory that trials have needed."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The number of parallel trials, and why there are not more.

    Attributes:
        workers: parallel trials.
        idle: a sentence if cores are idle, otherwise empty.
    """

    workers: int
    idle: str = ""


def capacity(trial_bytes: float, trials: int, *, cores: int | None = None, memory: float | None = None) -> Capacity:
    """Return how many trials to train in parallel.

    Args:
        trial_bytes: memory of one trial.
        trials: total number of trials in the study.
        cores: cores of this machine; by default those that this process may use.
        memory: likewise.

    >>> capacity(2e9, 200, cores=32, memory=64e9).workers
    25
    >>> print(capacity(2e9, 24, cores=32, memory=64e9).idle)
    8 of 32 cores train, because most of 24 trials should know others' results: --workers 25, or more --trials
    """
    cores = available_cores() if cores is None else cores
    memory = available_memory() if memory is None else memory
    fit, known = max(1, int(SHARE * memory / trial_bytes)), max(LEAST, trials // ROUNDS)
    workers = min(cores, fit, known)
    if workers == cores:
        return Capacity(workers=workers)
    if fit <= known:
        need = f"{trial_bytes / 1e9:.2g} of {memory / 1e9:.3g} GB"
        why = f"a trial may need {need} of memory: give --workers if it does not, or smaller batches"
    else:
        why = f"most of {trials} trials should know others' results: --workers {min(cores, fit)}, or more --trials"
    return Capacity(workers=workers, idle=f"{workers} of {cores} cores train, because {why}")


def of_run(task: Task, options: Options) -> Capacity:
    """Return how many trials of a run to train in parallel on this machine: the number asked for, or what fits."""
    if options.workers is not None:
        return Capacity(workers=options.workers)
    most = trial_bytes(task, options.out)
    return capacity(min(most, options.trial_memory_bytes or most), options.trials)


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

    outputs = 0

    def add(module: object, inputs: object, output: object) -> None:
        nonlocal outputs
        outputs += _bytes(output)

    hooks = [module.register_forward_hook(add) for module in task.base.modules() if not any(module.children())]
    was_training = task.base.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
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
