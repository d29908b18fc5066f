"""How soon a search that was stuck finds a way out, whose first trials it is given.

    python bench/stuck.py [--quick] [--samplers surrogate …]

A study of a twenty-layer residual network made 33 proposals in a row that all missed the target, since layers in INT8
are slow there once they are narrow, which its profile does not tell (``recorded/stuck.jsonl``). Here a sampler is given
its first fourteen trials, and proposes on. A forest predicts what a proposal would take; it was fitted to all 47
trials and to what else was timed on that machine; it knows other things of a candidate than samplers do.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common.environment import describe
from common.recorded import RecordedProblem
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Outcome, Window, representative
from autocompress.pareto.limits import Limits
from autocompress.profiles.profile import Profile
from autocompress.search.options import SAMPLERS
from autocompress.search.samplers import create
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, RANK, Candidate
from autocompress.storage.study_store import Start, StudyStore

TABLE = Path(__file__).parent / "recorded" / "stuck.jsonl"

TARGET_MS = 0.7
GIVEN = 14
"""Trials that a sampler is given: the study's warm start."""

HALF, TEN_SIXTEENTHS = (1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4), (1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
ALSO_TIMED = ((HALF, 0.48), (TEN_SIXTEENTHS, 0.59))
"""Levels of the twelve groups of float networks that another tool pruned, and their milliseconds."""

SPREAD = 0.05
"""Half of the interval of an imagined latency, as a share of it: what it was in the study."""


class StuckProblem(RecordedProblem):
    """The recorded study, with latencies for what was not recorded."""

    def __init__(self) -> None:
        super().__init__(TABLE)
        self._groups = [choice for choice in self.space.choices if choice.axis == PRUNING_RATIO]
        floats = [self._float(levels) for levels, _ in ALSO_TIMED]
        known = [self.rows[each].latency for each in self.pool]
        milliseconds = [*(it.median_ms for it in known if it is not None), *(each for _, each in ALSO_TIMED)]
        self._forest = ExtraTreesRegressor(500, random_state=0)
        self._forest.fit([self._described(each) for each in (*self.pool, *floats)], np.log(milliseconds))

    def latency_ms(self, candidate: Candidate) -> float:
        """Return what a candidate would take."""
        return float(np.exp(self._forest.predict([self._described(candidate)])[0]))

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Return what was recorded, or that a candidate is too slow, or a measurement of no accuracy."""
        if request.candidate in self.rows:
            return super().evaluate(request)
        ratio = self.latency_ms(request.candidate) / self.baseline.latency.baseline_ms
        readings = (round(1e9 * ratio * (1 + i * SPREAD / 2.5)) for i in (-1, 0, 1))
        windows = tuple(Window(baseline_ns=(10**9,), candidate_ns=(each,)) for each in readings)
        latency = Latency(windows=windows, baseline_ms=self.baseline.latency.baseline_ms)
        if latency.least_ms > TARGET_MS:
            return Infeasible(reason=f"{latency.median_ms:.2f} ms is too slow", rung="latency", latency=latency)
        return (Measurement(accuracy=0.5, latency=latency, size_bytes=1, params=0, macs=0),)

    def _float(self, levels: tuple[int, ...]) -> Candidate:
        named = zip(self._groups, levels, strict=True)
        return self.space.candidate({choice.name: level for choice, level in named})

    def _described(self, candidate: Candidate) -> NDArray[np.float64]:
        """Return the share of multiply-accumulates, of channels by stage, layers in INT8, with ranks, and borders."""
        kept = {choice.target: 1 - float(candidate[PRUNING_RATIO].get(choice.target, 0.0)) for choice in self._groups}
        network = Profile.from_dict(self.profile()).network
        macs = [
            layer.macs * kept.get(layer.out_group or "", 1.0) * np.prod([kept[group] for group in layer.in_groups])
            for layer in network.layers
        ]
        stages = [list(kept.values())[i : i + 4] for i in (0, 4, 8)]
        integer = [layer.name in candidate[BITS] for layer in network.layers]
        borders = sum(one != other for one, other in itertools.pairwise(integer))
        described = [sum(macs) / sum(layer.macs for layer in network.layers), *(np.mean(each) for each in stages)]
        return np.array([*described, sum(integer), len(candidate[RANK]), borders], dtype=float)


def proposals(problem: StuckProblem, sampler: str, seed: int) -> Iterator[tuple[Candidate, Outcome]]:
    """Yield what a sampler proposes after the trials that it is given, and what comes of it."""
    profile = Profile.from_dict(problem.profile())
    with tempfile.TemporaryDirectory() as folder:
        store = StudyStore(Path(folder), None, "stuck", problem.space, Limits(TARGET_MS))
        judged = create(sampler, space=problem.space, profile=profile, judge=store, seed=seed, finished=GIVEN)
        store.study.sampler = judged
        store.begin([Start(each, problem.rows[each].origin) for each in problem.pool[:GIVEN]])
        while True:
            asked = store.ask()
            target_ms = None if asked.role else TARGET_MS
            outcome = problem.evaluate(Request(folder="", candidate=asked.candidate, epochs=1, target_ms=target_ms))
            store.tell(asked.number, outcome)
            if asked.number >= GIVEN:
                yield asked.candidate, outcome


def needed(problem: StuckProblem, sampler: str, seed: int, most: int) -> tuple[int, int]:
    """Return how many proposals it took until one was under the target, and until one met it; ``most`` if none did."""
    under = meets = most
    for number, (_, outcome) in zip(range(1, most + 1), proposals(problem, sampler, seed), strict=False):
        latency = representative(outcome).latency
        assert latency is not None
        under = min(under, number) if latency.median_ms <= TARGET_MS else under
        if latency.meets(TARGET_MS):
            return under, number
    return under, meets


def main() -> None:
    """Print a line a sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, ten proposals")
    parser.add_argument("--samplers", nargs="+", default=["surrogate", "mutation", "random"], choices=SAMPLERS)
    asked = parser.parse_args()
    seeds, most = (range(1), 10) if asked.quick else (range(5), 33)
    print(describe(), flush=True)
    print(f"proposals until one is under {TARGET_MS} ms, and until one meets it; medians of {len(seeds)} (least–most)")
    problem = StuckProblem()
    for sampler in asked.samplers:
        columns = zip(*(needed(problem, sampler, seed, most) for seed in seeds), strict=True)
        cells = [f"{statistics.median(each):g} ({min(each)}–{max(each)})" for each in columns]
        print(f"  {sampler:>10} {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
