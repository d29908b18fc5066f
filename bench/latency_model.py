"""How well a search predicts the latencies of its next trials from those that it has had.

    python bench/latency_model.py [--quick]

From each number of trials on, the next eight are predicted from all that came before. The tables are really measured
candidates, in the order in which they were measured (``recorded/``), and imaginary ones (``common/problems.py``), whose
trials are a warm start, random candidates and children of these.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common.environment import describe
from common.problems import LATENCY_NOISE, TARGET_MS, Problem
from common.recorded import RecordedProblem
from numpy.typing import NDArray

from autocompress.profiles.profile import Profile
from autocompress.search.samplers.cost_predictor import CostPredictor
from autocompress.search.samplers.encoding import EncodedSpace, LevelArray, Numbers
from autocompress.search.samplers.history import History
from autocompress.search.samplers.initial_design import warm_start
from autocompress.search.samplers.variation import Moves

RECORDED = ("fashion_mnist", "stuck")
IMAGINARY = ("overheads", "additive")

FIRST, STEP, NEXT = 10, 4, 8
"""Trials that are known at first, by how many they grow, and how many are predicted."""

TRIALS, RANDOM = 60, 25
"""Of an imaginary problem: how many there are, and how many of these are random."""

FAR = 1.0
"""Difference of logarithms beyond which a prediction is simply wrong."""


@dataclass(frozen=True)
class Timed:
    """Candidates in the order in which they were timed."""

    tables: EncodedSpace
    levels: LevelArray
    latency_ms: Numbers

    def history(self, count: int) -> History:
        """Return the first of them as trials with nothing else known."""
        unknown = np.full(count, np.nan)
        levels, latency_ms, none = self.levels[:count], self.latency_ms[:count], np.zeros(count, dtype=bool)
        return History(
            levels=levels,
            accuracy=unknown,
            latency_ms=latency_ms,
            high_ms=latency_ms,
            size_bytes=unknown,
            memory_bytes=unknown,
            energy_mj=unknown,
            feasible=none,
            baseline=None,
            others=levels[:0],
        )


def recorded(name: str) -> Timed:
    """Return a recorded table."""
    problem = RecordedProblem(Path(__file__).parent / "recorded" / f"{name}.jsonl")
    tables = EncodedSpace(problem.space, Profile.from_dict(problem.profile()))
    rows = [(row.candidate, row.latency.median_ms) for row in problem.rows.values() if row.latency is not None]
    levels = np.concatenate([tables.row(problem.space.levels(candidate)) for candidate, _ in rows])
    return Timed(tables, tables.canonical(levels), np.array([milliseconds for _, milliseconds in rows]))


def imaginary(family: str, seed: int) -> Timed:
    """Return trials of an imaginary problem."""
    problem, rng = Problem(family, seed), np.random.default_rng(seed)
    profile = Profile.from_dict(problem.profile())
    tables = EncodedSpace(problem.space, profile)
    starts = [problem.levels(start.candidate) for start in warm_start(problem.space, profile, TARGET_MS)]
    first, moves = np.concatenate(starts), Moves(tables)
    parents = np.concatenate([first, moves.random(rng, RANDOM)])
    one, other = parents[rng.integers(len(parents), size=(2, TRIALS - len(parents)))]
    rest = np.concatenate([parents[len(first) :], moves.children(rng, one, other, 3.0)])
    levels = np.concatenate([first, rng.permutation(rest)])
    noise = 1 + LATENCY_NOISE * rng.standard_normal(len(levels))
    return Timed(tables, levels, problem.latency_ms(levels) * noise)


def errors(timed: Timed, tell: Callable[[EncodedSpace, History, LevelArray], Numbers]) -> NDArray[np.float64]:
    """Return differences of logarithms, between the predictions for the next trials and what they took."""
    found = []
    for count in range(FIRST, len(timed.levels) - NEXT // 2, STEP):
        told = tell(timed.tables, timed.history(count), timed.levels[count : count + NEXT])
        found.append(np.log(told / timed.latency_ms[count : count + NEXT]))
    return np.concatenate(found)


def learned(tables: EncodedSpace, history: History, levels: LevelArray) -> Numbers:
    """Return what a search tells."""
    return CostPredictor(tables, history).latency_ms(levels)


def scaled(tables: EncodedSpace, history: History, levels: LevelArray) -> Numbers:
    """Return what the profile tells, scaled by the median of what was measured."""
    factor = np.median(history.latency_ms / tables.latency_ms(history.levels))
    told: Numbers = factor * tables.latency_ms(levels)
    return told


def root_mean_square(differences: NDArray[np.float64]) -> float:
    """Return it, differences that are `FAR` or more held there."""
    return float(np.sqrt(np.minimum(differences**2, FAR**2).mean()))


def studies(seeds: int) -> Iterator[tuple[str, list[Timed]]]:
    """Yield the names of all studies and their trials, of some seeds where they are imaginary."""
    for name in RECORDED:
        yield name, [recorded(name)]
    for family in IMAGINARY:
        yield family, [imaginary(family, seed) for seed in range(seeds)]


def main() -> None:
    """Print a line a study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed of the imaginary problems")
    seeds = 1 if parser.parse_args().quick else 5
    print(describe(), flush=True)
    print("differences of logarithms: root mean square and median, learned and by the scaled profile alone")
    for name, timed in studies(seeds):
        cells = []
        for tell in (learned, scaled):
            differences = np.concatenate([errors(each, tell) for each in timed])
            cells.append(f"{root_mean_square(differences):.3f} {np.median(np.abs(differences)):.3f}")
        print(f"  {name:>14}  {'   '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
