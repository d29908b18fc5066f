"""How many trials this machine trains at a time, where nobody says it: what its cores and its memory allow."""

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
"""In so many rounds, at least, are trials proposed, so that most of them know what came of others."""

LEAST = 2
"""Trials at a time that may always be, where the machine allows it."""

SHARE = 0.8
"""Of the memory, for all trials; the rest is for the search, for what measures, and for others."""

PROCESS_BYTES = 0.5e9
"""What a worker has of its own before it has a network: Python with torch and a runtime."""

COPIES = 13
"""How often a network's weights are in memory at a time: its own, its teacher's, gradients, moments, files.
(This and the next were read off trials with a plain network of 128 MB and with ResNet-18.)"""

ACTIVATIONS = 2
"""How often the outputs of all layers are, for a batch that is trained on."""

FILE = "memory.json"
"""Where a run directory keeps what trials have needed."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """How many trials at a time, and why not more.

    Attributes:
        workers: trials at a time.
        idle: a sentence where cores have nothing to do, else empty.
    """

    workers: int
    idle: str = ""


def capacity(trial_bytes: float, trials: int, *, cores: int | None = None, memory: float | None = None) -> Capacity:
    """Return how many trials to train at a time.

    Args:
        trial_bytes: what one of them needs.
        trials: of the study.
        cores: of this machine, by default those that this process may use.
        memory: likewise.

    >>> capacity(2e9, 200, cores=32, memory=64e9).workers
    25
    >>> print(capacity(2e9, 24, cores=32, memory=64e9).idle)
    8 of 32 cores train, as of 24 trials most are to know what came of others: --workers 25, or more --trials
    """
    cores = available_cores() if cores is None else cores
    memory = available_memory() if memory is None else memory
    fit, known = max(1, int(SHARE * memory / trial_bytes)), max(LEAST, trials // ROUNDS)
    workers = min(cores, fit, known)
    if workers == cores:
        return Capacity(workers=workers)
    if fit <= known:
        need = f"{trial_bytes / 1e9:.2g} of {memory / 1e9:.3g} GB"
        why = f"a trial may need {need} of memory: give --workers where it does not, or smaller batches"
    else:
        why = f"of {trials} trials most are to know what came of others: --workers {min(cores, fit)}, or more --trials"
    return Capacity(workers=workers, idle=f"{workers} of {cores} cores train, as {why}")


def of_run(task: Task, options: Options) -> Capacity:
    """Return how many trials of a run to train at a time on this machine: as many as it asks for, or what fits."""
    if options.workers is not None:
        return Capacity(workers=options.workers)
    most = trial_bytes(task, options.out)
    return capacity(min(most, options.trial_memory_bytes or most), options.trials)


def trial_bytes(task: Task, folder: Path) -> float:
    """Return the memory that a trial needs: what those of the run had at most, or before there are any a guess.

    The guess is by the bytes of the network's weights and by those of all layers' outputs for a batch of the training
    data. Data that lies in memory once for all workers does not count.

    Args:
        task: what is compressed.
        folder: of the run.
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
