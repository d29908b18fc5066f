"""History of a search: its hypervolume over trials and time, where and why trials ended, and what took the time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..evaluators.measurement import Infeasible, Measurement, cut, deciding, representative
from ..evaluators.promotion import stops_early
from ..pareto.dominance import non_dominated
from ..pareto.front import ParetoFront
from ..pareto.limits import Limits
from ..pareto.objectives import front_hypervolume, minimised
from ..storage.trials import Trial

STEPS = 200
"""Most trials after which the hypervolume is given: a line needs no more."""

REASONS = 8
"""Reasons given for each ending, the most frequent first."""

CUT = "infeasible trials"
"""Label for the time of infeasible trials, whose seconds are not known by rung."""

ENDS = {
    "met": "measured, meets every limit",
    "missed": "measured, misses a limit",
    "slow": "too slow: stopped after it was timed",
    "costly": "over another limit",
    "unpromising": "not trained: could not reach the front",
    "failed": "could not be built, trained or measured",
    "lost": "lost with its worker, started again",
    "open": "not finished",
}
"""Where a trial may end, with its label."""


def search_history(front: ParetoFront, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return the history of the search, judged by the current limits."""
    done = sorted((trial for trial in trials if trial.outcome is not None), key=_ended)
    busy = Busy(trials)
    return {
        "trials": len(done),
        "seconds": round(busy.until(float("inf")), 1),
        "hypervolume": list(_hypervolume(front, done, busy)),
        "ends": _ends(trials, front.limits),
        "rungs": _rungs(done),
    }


def _ended(trial: Trial) -> tuple[float, int]:
    return (trial.ended.timestamp() if trial.ended else 0.0), trial.number


class Busy:
    """The time in which any trial ran, without the pauses of a study."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._spans: list[tuple[float, float]] = []
        spans = ((t.began.timestamp(), t.ended.timestamp()) for t in trials if t.began and t.ended)
        for start, end in sorted(spans):
            if self._spans and start <= self._spans[-1][1]:
                self._spans[-1] = (self._spans[-1][0], max(end, self._spans[-1][1]))
            else:
                self._spans.append((start, end))

    def until(self, moment: float) -> float:
        """Return the busy seconds before a time stamp."""
        return sum(max(0.0, min(end, moment) - start) for start, end in self._spans)


def _hypervolume(front: ParetoFront, done: Sequence[Trial], busy: Busy) -> Iterator[dict[str, Any]]:
    """Yield the hypervolume after each number of trials and seconds."""
    baseline, limits = front.baseline.measurement, front.limits
    step, value = max(1, len(done) // STEPS), 0.0
    kept: list[Measurement] = []
    fresh: list[Measurement] = []
    for count, trial in enumerate(done, start=1):
        if isinstance(trial.outcome, tuple):
            fresh += [found for found in [deciding(trial.outcome, limits.distance)] if limits.satisfied_by(found)]
        if count % step and count < len(done):
            continue
        if fresh:
            kept += fresh
            kept = [m for m, keep in zip(kept, non_dominated(minimised(kept)), strict=True) if keep]
            value, fresh = front_hypervolume(kept, baseline, front.target_ms), []
        yield {"trials": count, "seconds": round(busy.until(_ended(trial)[0]), 1), "value": round(value, 5)}


def end_of(trial: Trial, limits: Limits) -> str:
    """Return where a trial ended: a key of `ENDS`."""
    found = trial.outcome
    if found is None:
        return "lost" if trial.state == "fail" else "open"
    if not isinstance(found, Infeasible):
        return "met" if limits.satisfied_by(deciding(found, limits.distance)) else "missed"
    if cut(found):
        return "slow" if found.rung == "latency" else "costly"
    return "unpromising" if stops_early(found) else "failed"


def _ends(trials: Sequence[Trial], limits: Limits) -> list[dict[str, Any]]:
    counts: Counter[str] = Counter()
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for trial in trials:
        end = end_of(trial, limits)
        counts[end] += 1
        if end == "failed":
            assert isinstance(trial.outcome, Infeasible)
            reasons[end][f"{trial.outcome.rung}: {trial.outcome.reason}"] += 1
    return [
        {
            "end": end,
            "label": label,
            "trials": counts[end],
            "reasons": [{"reason": why, "trials": n} for why, n in reasons[end].most_common(REASONS)],
        }
        for end, label in ENDS.items()
        if counts[end]
    ]


def _rungs(done: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return how many trials ended on each rung, and the seconds that all trials spent on each."""
    ends: Counter[str] = Counter()
    seconds: defaultdict[str, float] = defaultdict(float)
    for trial in done:
        assert trial.outcome is not None
        found = representative(trial.outcome)
        ends[found.rung] += 1
        if isinstance(found, Measurement):
            for rung, spent in found.seconds.items():
                seconds[rung] += spent
        elif trial.began and trial.ended:
            seconds[CUT] += (trial.ended - trial.began).total_seconds()
    names = dict.fromkeys([*seconds, *ends])
    return [{"rung": name, "ended": ends[name], "seconds": round(seconds[name], 1)} for name in names]
