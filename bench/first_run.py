"""The first command of README from an empty folder and an empty cache: its stages, its seconds and its front.

    python bench/first_run.py [--against REVISION] [--long TRIALS]
    python bench/first_run.py --warm -- fashion_mnist --data-dir DIR --target-latency 1ms      another command

The stages come from what a run leaves behind: the files in its directory as they appear, and the times of its trials.
`--against` runs the same command of another revision too, and `--long` this tree's with more trials, to compare the
fronts; `--warm` uses the networks that the user's cache has. A hypervolume is relative to the run's own unchanged
network and target. Its noise is the standard deviation over resampled validation images and over latencies drawn from
their intervals. Seconds mean something on a quiet machine only.
"""

from __future__ import annotations

import argparse
import math
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common.environment import describe, instructions
from common.trees import ROOT, checked_out, importable

from autocompress.evaluators.measurement import Measurement
from autocompress.evaluators.scores import unpacked
from autocompress.pareto.dominance import hypervolume
from autocompress.pareto.model import BASELINE
from autocompress.pareto.objectives import front_hypervolume, minimised, relative
from autocompress.storage.run import FINISHED, Run, open_run
from autocompress.storage.trials import Trial

COMMAND = ("--target-latency", "5ms")
QUICK = ("--trials", "2", "--workers", "0", "--epochs", "0.1", "--final-epochs", "0.1")

FILES = {
    "network trained": "cache/*.safetensors",
    "run directory made": "runs/*/study.json",
    "profile made": "runs/*/profile.json",
    "final evaluation over": f"runs/*/{FINISHED}",
}
"""Stages that end when a file appears, by its pattern; a run without the stage makes none."""

STAGES = (
    "network trained",
    "run directory made",
    "profile made",
    "first trial begun",
    "first trial over",
    "first point of the front",
    "search over",
    "final evaluation over",
    "end",
)

DRAWS = 400
"""Fronts that are drawn to find the noise of a hypervolume."""


@dataclass(frozen=True, kw_only=True)
class FirstRun:
    """What a run of the command was like.

    Attributes:
        seconds: when each of its stages ended, since the command was entered.
        baseline_ms: calibrated milliseconds of the unchanged network.
        trials: finished trials.
        hourly: finished trials per hour of the search; NaN without any.
        models: models of the front.
        hypervolume: of the front.
        noise: standard deviation of that; NaN without models, or where a model's scores are not known.
    """

    seconds: Mapping[str, float]
    baseline_ms: float
    trials: int
    hourly: float
    models: int
    hypervolume: float
    noise: float


def first_run(tree: Path, words: Sequence[str], *, warm: bool) -> FirstRun:
    """Run the command of a tree from nothing, or from a cache with trained networks."""
    with tempfile.TemporaryDirectory() as folder, importable(tree) as environment:
        here = Path(folder)
        began, seen = time.time(), {}
        with (here / "log").open("w+") as log:
            command = [sys.executable, "-m", "autocompress", *words]
            if not warm:
                environment["AUTOCOMPRESS_CACHE"] = str(here / "cache")
            with subprocess.Popen(command, cwd=here, env=environment, stdout=log, stderr=log) as running:
                while running.poll() is None:
                    for stage, pattern in FILES.items():
                        if stage not in seen and any(here.glob(pattern)):
                            seen[stage] = time.time() - began
                    time.sleep(0.1)
            seen["end"] = time.time() - began
            log.seek(0)
            if running.returncode not in (0, 1):  # 1: nothing meets the target
                sys.exit(f"the command must end well; it ended with {running.returncode}:\n{log.read()}")
        (found,) = here.glob("runs/*/study.json")
        run = open_run(found.parent)
        front = run.front()
        meeting = [m.measurement for m in front.models if front.meets(m)]
        of_trials = dict(stages_of(run))
        trials = sum(trial.outcome is not None for trial in run.trials)
        search_s = of_trials["search over"] - of_trials["first trial begun"] if of_trials else math.nan
        return FirstRun(
            seconds=seen | {stage: at - began for stage, at in of_trials.items()},
            baseline_ms=front.baseline.measurement.latency.baseline_ms,
            trials=trials,
            hourly=3600 * trials / search_s,
            models=len(meeting),
            hypervolume=front_hypervolume(meeting, front.baseline.measurement, front.target_ms),
            noise=noise(meeting, front.baseline.measurement, front.target_ms),
        )


def stages_of(run: Run) -> Iterator[tuple[str, float]]:
    """Yield the stages that a run's trials tell of, with the times of day at which they ended."""
    done = sorted((t for t in run.trials if t.began and t.ended), key=ended)
    if not done:
        return
    yield "first trial begun", min(t.began.timestamp() for t in done if t.began)
    yield "first trial over", ended(done[0])
    yield "search over", ended(done[-1])
    baseline = next(m.measurement for m in run.measured if m.role == BASELINE)
    points = {m.id: m.measurement for m in run.measured if m.role != BASELINE}
    limits = run.limits
    for trial in done:
        point = points.get(trial.id)
        if point is not None and front_hypervolume([point], baseline, limits.target_ms) and limits.satisfied_by(point):
            yield "first point of the front", ended(trial)
            return


def ended(trial: Trial) -> float:
    """Return the time of day at which a trial ended."""
    assert trial.ended is not None
    return trial.ended.timestamp()


def noise(models: list[Measurement], baseline: Measurement, target_ms: float) -> float:
    """Return how far a front's hypervolume may be off: its standard deviation over drawn images and latencies."""
    scores = [unpacked(measured.scores) for measured in (baseline, *models)]
    known = [each for each in scores if each is not None]
    if not models or len(known) < len(scores):
        return float("nan")
    right = np.stack([np.asarray(each, dtype=np.float64) for each in known])
    points, random = minimised(models), np.random.default_rng(0)
    spread = np.array([(m.latency.high_ms / m.latency.median_ms - 1) / 1.96 for m in models])
    volumes = []
    for _ in range(DRAWS):
        accuracies = right[:, random.integers(right.shape[1], size=right.shape[1])].mean(1)
        drawn = points.copy()
        drawn[:, 0] = -accuracies[1:]
        drawn[:, 1] *= np.exp(spread * random.standard_normal(len(models)))
        scale = {"latency_ms": target_ms, "size_bytes": baseline.size_bytes}
        inside = np.maximum(relative(drawn, accuracy=float(accuracies[0]), **scale), 0.0)
        volumes.append(hypervolume(inside, np.ones(3)))
    return float(np.std(volumes))


def show(runs: Mapping[str, FirstRun]) -> None:
    """Print the runs beside each other."""
    width = max(20, *(len(name) + 2 for name in runs))
    print(f"{'seconds after the start':28}" + "".join(f"{name:>{width}}" for name in runs))
    for stage in STAGES:
        times = (run.seconds.get(stage) for run in runs.values())
        print(f"{stage:28}" + "".join(f"{'–' if at is None else f'{at:.0f}':>{width}}" for at in times))
    print(f"{'unchanged network, ms':28}" + "".join(f"{run.baseline_ms:>{width}.2f}" for run in runs.values()))
    print(f"{'trials':28}" + "".join(f"{run.trials:>{width}}" for run in runs.values()))
    print(f"{'trials per hour of search':28}" + "".join(f"{run.hourly:>{width}.0f}" for run in runs.values()))
    print(f"{'models of the front':28}" + "".join(f"{run.models:>{width}}" for run in runs.values()))
    volumes = (
        f"{run.hypervolume:.4f}" + ("" if math.isnan(run.noise) else f" ± {run.noise:.4f}") for run in runs.values()
    )
    print(f"{'hypervolume':28}" + "".join(f"{volume:>{width}}" for volume in volumes))


def main() -> None:
    """Run the command of each tree, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", default=COMMAND, help="of another command")
    parser.add_argument("--against", metavar="REVISION", help="another revision whose command is run too")
    parser.add_argument("--long", metavar="TRIALS", type=int, help="run this tree's command once more, with so many")
    parser.add_argument("--warm", action="store_true", help="with the networks that are trained already")
    parser.add_argument("--quick", action="store_true", help="two trials, hardly trained: a smoke test")
    asked = parser.parse_args()
    words = [*asked.words, *(QUICK if asked.quick else ())]
    print(f"autocompress {shlex.join(words)}\n{describe()}; {instructions()}\n", flush=True)
    with ExitStack() as stack:
        todo = {"this tree": (ROOT, words)}
        if asked.against:
            todo[asked.against] = (stack.enter_context(checked_out(asked.against)), words)
        if asked.long:
            todo[f"{asked.long} trials"] = (ROOT, [*words, "--trials", str(asked.long)])
        runs = {name: first_run(tree, each, warm=asked.warm) for name, (tree, each) in todo.items()}
    show(runs)
    if asked.against:
        faster = runs[asked.against].seconds["end"] / runs["this tree"].seconds["end"]
        print(f"\nthis tree comes to the end {faster:.1f} times faster than {asked.against}")


if __name__ == "__main__":
    main()
