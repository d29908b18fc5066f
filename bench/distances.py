"""Does it help to learn from the teacher's outputs, whatever kind they are of? Four kinds, side by side.

    python bench/distances.py            some minutes
    python bench/distances.py --quick    two of the studies, one seed, little training: a smoke test

The studies are those of `bench/outputs`: pixels with classes, tokens with classes, one yes or no, numbers. The same
pruned candidate is trained for the same passes, from the same seeds, three times: with the task's loss alone; with the
distance that fits the outputs; and with the one that fits a class for each example only: softmax over axis 1, summed
over positions. Told is the metric on test data, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from common.environment import describe
from torch import Tensor
from torch.nn import functional

from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.evaluators import runtimes
from autocompress.spaces.candidate import DISTILLATION, PRUNING_RATIO, Candidate
from autocompress.studies import loading
from autocompress.studies.distance import OFF, Distance
from autocompress.studies.loss_probe import choose_distance
from autocompress.studies.normalize import normalized
from autocompress.studies.task import Task

STUDIES = ("segmentation", "tokens", "binary", "regression")
QUICK_STUDIES = ("tokens", "binary")

RATIO, RATE = 0.5, 0.03


def summed(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the divergence over axis 1, summed over all positions of an example."""
    ours, theirs = (functional.log_softmax(x / temperature, 1) for x in (student, teacher))
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def main() -> None:
    """Parse the command line, train everything, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=float, default=24.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weight", type=float, default=0.7)
    parser.add_argument("--only", nargs="+", choices=STUDIES)
    parser.add_argument("--quick", action="store_true", help="two studies, one seed, a tenth of a pass: a smoke test")
    asked = parser.parse_args()
    passes, seeds = (0.1, 1) if asked.quick else (asked.passes, asked.seeds)
    print(describe())
    print(f"{RATIO:.0%} of channels pruned, {passes:g} passes at {RATE:g}, weight {asked.weight:g}, {seeds} seeds\n")
    print(f"{'':14}{'teacher':>9}{'untrained':>11}{'none':>16}{'fitting':>16}{'softmax, summed':>18}", flush=True)
    for name in asked.only or (QUICK_STUDIES if asked.quick else STUDIES):
        task, _ = normalized(loading.load(str(Path(__file__).parent / "outputs" / f"{name}.py")))
        started = time.monotonic()
        cells = row(task, passes, seeds, asked.weight)
        print(f"{name:14}{cells}   {choose_distance(task).name}, {time.monotonic() - started:.0f} s", flush=True)


def row(task: Task, passes: float, seeds: int, weight: float) -> str:
    """Return the metrics of one study."""
    candidate, fitting = pruned(task, weight), choose_distance(task).distance
    assert fitting is not None
    found: dict[str, list[float]] = {}
    kinds: dict[str, Distance | str] = {"none": OFF, "fitting": fitting, "summed": summed}
    for kind, distance in kinds.items():
        told = replace(task, distance=distance)
        found[kind] = [score(told, candidate, passes, seed) for seed in range(seeds)]
    spread = {kind: statistics.stdev(each) if len(each) > 1 else 0.0 for kind, each in found.items()}
    cells = [f"{statistics.mean(found[kind]):.3f} ± {spread[kind]:.3f}" for kind in kinds]
    assert task.test is not None
    before = f"{task.metric(task.model, task.test):9.3f}{score(task, candidate, 0.0, 0):11.3f}"
    return before + "".join(f"{cell:>{width}}" for cell, width in zip(cells, (16, 16, 18), strict=True))


def pruned(task: Task, weight: float) -> Candidate:
    """Return the candidate that has each group pruned alike."""
    served = runtimes.load("onnxruntime").capabilities
    space = space_of(inspect(task.model, task.examples, keep=task.keep), served)
    groups = {
        choice.target: min(choice.levels, key=lambda level: abs(float(level) - RATIO))
        for choice in space.on(PRUNING_RATIO)
    }
    return Candidate({PRUNING_RATIO: groups, DISTILLATION: {"weight": weight, "learning_rate": RATE}})


def score(task: Task, candidate: Candidate, passes: float, seed: int) -> float:
    """Return the metric on test data of a candidate that was trained for some passes."""
    torch.manual_seed(seed)
    built = apply_candidate(task, candidate, supplies_of(task), epochs=passes, seed=seed)
    assert task.test is not None
    return float(task.metric(built.model.eval(), task.test))


if __name__ == "__main__":
    main()
