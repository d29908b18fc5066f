"""What the teacher's kept answers save in a training step, and whether trainings end as well on a shared stream.

    python bench/teacher.py            an hour on one core
    python bench/teacher.py --quick    a few steps of digits: a smoke test

Each student is pruned alike everywhere. A step is timed by the CPU time of this process, without the teacher (weight
0), with the teacher's forward pass, and with its kept answers, in turns; told is the median step. Accuracies are on the
validation and test data, mean and standard deviation over trainings: each on a stream of its own with a live teacher,
and each from the place of a trial on the study's stream with kept answers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from common.environment import describe

from autocompress.compressors.batches import batches_in
from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.stream import Stream, stream_of
from autocompress.compressors.technique import Supplies
from autocompress.evaluators import runtimes
from autocompress.spaces.candidate import DISTILLATION, PRUNING_RATIO, Candidate
from autocompress.studies import loading
from autocompress.studies.loss_probe import choose_distance
from autocompress.studies.normalize import normalized
from autocompress.studies.task import Task

RATIOS = (0.25, 0.5, 0.75)
STUDIES = ("digits", "fashion_mnist")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", nargs="+", default=STUDIES)
    parser.add_argument("--data-dir", type=Path, default=os.environ.get("AUTOCOMPRESS_DATA"), help="of fashion_mnist")
    parser.add_argument("--steps", type=int, default=12, help="training steps of each measurement")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind, in turns")
    parser.add_argument("--trainings", type=int, default=8, help="trainings of each accuracy; 0 leaves them out")
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS)
    parser.add_argument("--quick", action="store_true", help="digits, one ratio, a few steps: a smoke test")
    asked = parser.parse_args()
    if asked.quick:
        asked.studies, asked.ratios, asked.steps, asked.rounds, asked.trainings = ["digits"], [0.75], 3, 1, 1
    print(describe())
    print(f"\n{'':14}{'pruned':>7}{'no teacher':>12}{'live':>10}{'kept':>10}{'live/kept':>11}", end="")
    print(f"{'alone, live':>20}{'one stream, kept':>20}")
    for name in asked.studies:
        task, _ = normalized(loading.load(name, data_dir=asked.data_dir if name == "fashion_mnist" else None))
        task = replace(task, distance=choose_distance(task).distance)  # else each training looks for it
        supplies = supplies_of(task)
        for ratio in asked.ratios:
            row = timed(task, supplies, ratio, asked.steps, asked.rounds)
            cells = "".join(f"{1e3 * row[kind]:{width}.1f}" for kind, width in (("none", 9), ("live", 7), ("kept", 7)))
            print(f"{name:14}{ratio:7.0%}{cells} ms{row['live'] / row['kept']:11.2f}", end="", flush=True)
            print(accuracies(task, supplies, ratio, asked.trainings), flush=True)


def pruned(task: Task, ratio: float, settings: Mapping[str, float]) -> Candidate:
    """Return the candidate that has each group pruned alike."""
    space = space_of(inspect(task.model, task.examples, keep=task.keep), runtimes.load("onnxruntime").capabilities)
    groups = {
        choice.target: min(choice.levels, key=lambda level: abs(float(level) - ratio))
        for choice in space.on(PRUNING_RATIO)
    }
    return Candidate({PRUNING_RATIO: groups, DISTILLATION: dict(settings)})


def timed(task: Task, supplies: Supplies, ratio: float, steps: int, rounds: int) -> dict[str, float]:
    """Return CPU seconds of a training step by kind; the answers are there before they are timed."""
    stream, epochs = Stream(seed=0, passes=1), (steps + 1) / batches_in(task.train)
    found: dict[str, list[float]] = {"none": [], "live": [], "kept": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            for kind, seconds in found.items():
                moments: list[float] = []
                apply_candidate(
                    task,
                    pruned(task, ratio, {"weight": 0.0} if kind == "none" else {}),
                    supplies,
                    epochs=epochs,
                    stream=stream,
                    answers=Path(folder) if kind == "kept" else None,
                    pause=lambda moments=moments: moments.append(time.process_time()),  # type: ignore[misc]
                )
                if number:  # the first round computes the answers, and warms up
                    seconds += [after - before for before, after in pairwise(moments)]
    return {kind: statistics.median(seconds) for kind, seconds in found.items()}


def accuracies(task: Task, supplies: Supplies, ratio: float, trainings: int) -> str:
    """Return the accuracies of trainings of both kinds."""
    candidate, found = pruned(task, ratio, {}), []
    with tempfile.TemporaryDirectory() as folder:
        for shared in (False, True) if trainings else ():
            scores = []
            for seed in range(trainings):
                stream = stream_of(0, seed, epochs=task.epochs, final_epochs=task.final_epochs)
                built = apply_candidate(
                    task,
                    candidate,
                    supplies,
                    epochs=task.epochs,
                    seed=seed,
                    stream=stream if shared else None,
                    answers=Path(folder) if shared else None,
                )
                held = [data for data in (task.validation, task.test) if data is not None]
                scores.append(statistics.mean(task.metric(built.model.eval(), data) for data in held))
            spread = statistics.stdev(scores) if trainings > 1 else 0.0
            found.append(f"{100 * statistics.mean(scores):.2f} ± {100 * spread:.2f}")
    return "".join(f"{cell:>20}" for cell in found)


if __name__ == "__main__":
    main()
