"""Trials that fail alike: where the first few do, all others would, and the search stops to say so.

An error that somebody's code raises is believed soon; a judgement on candidates, as that they take too long or that
their loss becomes NaN, may be another one for another candidate, and is believed after more of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..evaluators.ladder.failure import failure_of
from ..evaluators.measurement import Infeasible, Measurement, Outcome, representative
from ..evaluators.promotion import ONE_SHOT, TRAIN

LEAST = 3
"""Trials that must have failed alike, where none went well, before the search stops."""

JUDGED = 4
"""Times as many are needed where candidates were judged, and nobody's code raised an error."""

RUNGS = ("build", "latency", "size", "memory", "energy", ONE_SHOT, TRAIN, "timeout", "accuracy")
"""In the order in which they are climbed; who hangs, hangs in training more often than not."""


@dataclass(frozen=True, kw_only=True)
class RepeatedFailures:
    """Trials that failed for one reason.

    Attributes:
        why: what the last one of them failed for.
        trials: their numbers.
    """

    why: Infeasible
    trials: tuple[int, ...]

    @property
    def in_training(self) -> bool:
        """Whether they were built, timed and scored before."""
        return _height(self.why.rung) >= _height(TRAIN)

    def __str__(self) -> str:
        what = "be trained" if self.in_training else "be built, timed and scored"
        return (
            f"the search stops, because {len(self.trials)} candidates could not {what}, all for one reason: "
            f"{self.why.reason}. Fix that in the study, or give the command what it asks for"
        )


def failed_repeatedly(outcomes: Mapping[int, Outcome]) -> RepeatedFailures | None:
    """Return the trials that failed alike, where those are so many that others would, too; else None.

    Those count that came as far as the last one that failed. Nobody may have passed there since the first of them; and
    the more did before, the more must have failed: three times one more than that.

    Args:
        outcomes: of all trials but the unchanged network's, by their numbers.
    """
    failures = {number: failure_of(found) for number, found in outcomes.items()}
    last = next((why for why in reversed(failures.values()) if why is not None), None)
    if last is None:
        return None
    passed = [number for number, found in outcomes.items() if _reached(found) > _height(last.rung)]
    since = passed[-1] if passed else -1
    alike = [n for n, why in failures.items() if n > since and why is not None and _same(why, last)]
    needed = LEAST * (1 if last.raised else JUDGED) * (1 + len(passed))
    return RepeatedFailures(why=last, trials=tuple(alike)) if len(alike) >= needed else None


def _reached(outcome: Outcome) -> float:
    """Return how far a candidate came: up to the rung on which it failed, or past the one on which it ended."""
    found, failure = representative(outcome), failure_of(outcome)
    if isinstance(found, Measurement) and failure is None:
        return len(RUNGS) if found.epochs or TRAIN in found.seconds else _height(TRAIN) - 0.5
    return _height(found.rung) + 0.5 if failure is None else _height(failure.rung)


def _height(rung: str) -> int:
    return RUNGS.index(rung) if rung in RUNGS else 0


def _same(one: Infeasible, other: Infeasible) -> bool:
    """Return whether two reasons are the same but for the numbers in them."""
    return one.rung == other.rung and _worded(one.reason) == _worded(other.reason)


def _worded(reason: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", reason)
