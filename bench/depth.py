"""A deep network of small layers, searched with and without the axis of depth.

    python bench/depth.py           about an hour: 40 trials each
    python bench/depth.py --quick   two trials each: a smoke test

The network has 27 residual blocks with 56 layers, as ResNet-56 (He et al., CVPR 2016), an eighth of its work, and reads
one handwritten digit of the study ``digits`` at a time. Both searches have as many trials, one thread, and as many
passes of training for each trial. Of each front the fastest model counts that has lost no more than so many points of
the test data.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from common.environment import describe

from autocompress.compressors.depth.depth import Depth
from autocompress.pareto.front import ParetoFront
from autocompress.pareto.model import Model
from autocompress.search.options import Options
from autocompress.search.progress import Lines
from autocompress.search.study_run import run
from autocompress.studies import digits
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task
from autocompress.studies.training import Recipe, trained
from autocompress.units import parse_latency

WIDTHS, BLOCKS = (8, 16, 32), (9, 9, 9)
RECIPE = Recipe(epochs=60, learning_rate=0.05)
LOST = (0.005, 0.01, 0.02, 0.04)
"""Shares of the test data that a model may have wrong in addition to the unchanged network's."""


def task(*, quick: bool) -> Task:
    """Return the network, trained once and kept in the cache, with the data of the study ``digits``."""
    train, validation, test = digits.loaders()
    recipe, blocks = (Recipe(epochs=1, learning_rate=0.05), (2, 2, 2)) if quick else (RECIPE, BLOCKS)
    model = trained("digits-deep", lambda: ResidualNet(WIDTHS, blocks), train, recipe, takes="about five minutes")
    return Task(model, validation[0][0][:1].clone(), train, validation, test=test, epochs=4, final_epochs=12)


def search(given: Task, options: Options) -> ParetoFront:
    """Return the front of a search."""
    return run("digits-deep", lambda: given, options, Lines(lambda text: print(f"  {text}", flush=True)))


def fastest(front: ParetoFront, lost: float) -> Model | None:
    """Return the fastest model of a front that lost no more than a share of the test data."""

    def right(model: Model) -> float:
        return model.measurement.test_accuracy or 0.0

    enough = [model for model in front.models if right(model) >= right(front.baseline) - lost]
    return min(enough, key=lambda model: model.measurement.latency.ratio, default=None)


def line(lost: float, without: ParetoFront, with_depth: ParetoFront) -> str:
    """Return the fastest models of two fronts at a loss, and how much faster the second one's is."""
    found = [fastest(front, lost) for front in (without, with_depth)]
    shown = [
        "none" if m is None else f"{m.measurement.latency.ratio:.3f} ({m.measurement.test_accuracy:.2%})" for m in found
    ]
    one, other = found
    faster = "" if one is None or other is None else f"{times_faster(one, other):.2f}"
    return f"{lost:>10.1%}{shown[0]:>20}{shown[1]:>20}{faster:>16}"


def times_faster(one: Model, other: Model) -> float:
    """Return how many times faster a model is than one before it."""
    return one.measurement.latency.ratio / other.measurement.latency.ratio


def main() -> None:
    """Parse the command line, search twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--target-latency", default="0.4ms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the run directories")
    parser.add_argument("--quick", action="store_true", help="two trials of a small network: a smoke test")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print(describe())
    given = task(quick=asked.quick)
    fronts = []
    with tempfile.TemporaryDirectory(prefix="autocompress-") as scratch:
        for name in ("without", "with"):
            options = Options(
                target_ms=parse_latency(asked.target_latency),
                out=(asked.keep or Path(scratch)) / name,
                trials=2 if asked.quick else asked.trials,
                workers=0,
                seed=asked.seed,
                epochs=0.1 if asked.quick else None,
                final_epochs=0.1 if asked.quick else None,
            )
            print(f"\n{name} depth", flush=True)
            nothing = patch.object(Depth, "choices", lambda *_: ()) if name == "without" else nullcontext()
            with nothing:
                fronts.append(search(given, options))
    print(f"\nthe unchanged network: {fronts[1].baseline.measurement.test_accuracy:.2%} of the test data")
    print(f"{'points lost':>10}{'without (ratio)':>20}{'with depth':>20}{'times faster':>16}")
    for lost in LOST:
        print(line(lost, *fronts))


if __name__ == "__main__":
    main()
