"""Trials that fail alike: if the first few do, all others would, and the search stops with the reason.

An error raised by a user's code counts soon. A judgement on candidates, for instance that they take too long or that
their loss becomes NaN, may differ for the next candidate, and counts after more of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..evaluators.ladder.failure import failure_of
from ..evaluators.measurement import Infeasible, Measurement, Outcome, representative
from ..evaluators.promotion import ONE_SHOT, TRAIN

LEAST = 3
"""Number of trials that fail alike, without any success, before the search stops."""

JUDGED = 4
"""Factor on this number if candidates were judged, and no user's code raised an error."""

RUNGS = ("build", "latency", "size", "memory", "energy", ONE_SHOT, TRAIN, "timeout", "accuracy")
"""Rungs in their order; a trial that hangs usually does so in training."""


@dataclass(frozen=True, kw_only=True)
class RepeatedFailures:
    """Trials that failed for one reason.

    Attributes:
        why: reason of the last one.
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
    """Return the trials that failed alike, if they are so many that others would fail too; otherwise None.

    Only trials that came as far as the last failed one count. None may have passed its rung since the first failure;
    and the more passed before, the more must have failed: three for each, and three more.

    Args:
        outcomes: outcomes of all trials except the unchanged network's, by their numbers.
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
    """Return how far a candidate came: to the rung on which it failed, or past the one on which it ended."""
    found, failure = representative(outcome), failure_of(outcome)
    if isinstance(found, Measurement) and failure is None:
        return len(RUNGS) if found.epochs or TRAIN in found.seconds else _height(TRAIN) - 0.5
    return _height(found.rung) + 0.5 if failure is None else _height(failure.rung)


def _height(rung: str) -> int:
    return RUNGS.index(rung) if rung in RUNGS else 0


def _same(one: Infeasible, other: Infeasible) -> bool:
    """Return whether two reasons are equal except for the numbers in them."""
    return one.rung == other.rung and _worded(one.reason) == _worded(other.reason)


def _worded(reason: str) -> str:
    return re.sub(r"\d+(\.\d+)?", "#", reason)
