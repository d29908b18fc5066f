"""How well gradients predict what each choice damages, beside the median of those that were tried.

    python bench/saliency.py [STUDY] [--data-dir DIR] [--quick]

All choices of a network are tried, each on its own; then, many times, a random half of an axis is taken to be unknown,
and predicted from the other half, as a search does where a large network leaves it no time to try everything. Errors
are factors: 2 is twice or half the damage that was found.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from common.environment import describe

from autocompress.compressors.pipeline import space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.evaluators import runtimes
from autocompress.profiles.damage import divided
from autocompress.profiles.saliency import ENOUGH, Known, saliencies, saliency_of, stand_in
from autocompress.profiles.sensitivity import SALIENT, middle, sensitivities
from autocompress.spaces.space import Space
from autocompress.studies import loading

HALVES = 200


def known(study: str, data_dir: Path | None, most: int | None) -> dict[str, list[Known]]:
    """Return for each axis the saliency and the damage of its choices, of those that can be applied."""
    task = loading.load(study, data_dir=data_dir)
    network, supplies = inspect(task.model, task.examples), supplies_of(task)
    space = space_of(network, runtimes.load("onnxruntime").capabilities, task)
    choices = [choice for choice in space.choices if choice.neutral is not None][:most]
    with sensitivities(task.base, supplies, Space(tuple(choices)), lambda text: None, budget_s=math.inf) as damages:
        damage = damages()
    by_layer = saliencies(task.base, divided(task.base, supplies.calibration)[:SALIENT])
    found: defaultdict[str, list[Known]] = defaultdict(list)
    for choice in choices:
        at = damage[choice.name][middle(choice)]
        if 0 < at < math.inf:
            found[choice.axis].append((saliency_of(choice, by_layer, network), at))
    return found


def errors(pairs: list[Known], rng: np.random.Generator) -> tuple[float, float]:
    """Return the typical factors by which the median and the gradients are wrong."""
    logs: tuple[list[float], list[float]] = ([], [])
    for _ in range(HALVES):
        order = [pairs[i] for i in rng.permutation(len(pairs))]
        tried, rest = order[: len(order) // 2], order[len(order) // 2 :]
        median = statistics.median(damage for _, damage in tried)
        logs[0].extend(abs(math.log(median / damage)) for _, damage in rest)
        logs[1].extend(abs(math.log(stand_in(tried, saliency) / damage)) for saliency, damage in rest)
    return math.exp(statistics.mean(logs[0])), math.exp(statistics.mean(logs[1]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--quick", action="store_true", help="a few choices: a smoke test")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    print(f"{describe()}\n\n{'':20}{'choices':>8}{'median':>9}{'gradients':>11}", flush=True)
    for axis, pairs in known(asked.study, asked.data_dir, 2 * ENOUGH if asked.quick else None).items():
        by_median, by_gradients = errors(pairs, rng)
        print(f"{axis:20}{len(pairs):>8}{by_median:>9.2f}{by_gradients:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
