"""Says whether more trials would help: by the last ones, by those stopped for another target, and by the floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...evaluators.measurement import Infeasible, deciding
from ...pareto.front import ParetoFront
from ...pareto.limits import Limits
from ...pareto.model import Model
from ...pareto.objectives import minimised
from ...storage.run import Run

RECENT = 10
"""How many of the last trials are checked for an improvement."""

MORE = 20
"""How many more trials are proposed."""

NEAR = 1.25
"""A model within this factor of the floor cannot become much faster."""


@dataclass(frozen=True, kw_only=True)
class Prospects:
    """The prospects of more trials for some limits.

    Attributes:
        recent: number of the last trials that count.
        improved: how many of them improved the front.
        reopened: trials that stopped early for stricter limits, and may meet these.
        floor_ms: latency of the fastest network in the search space; None if unknown.
    """

    recent: int
    improved: int
    reopened: int
    floor_ms: float | None


def prospects(run: Run, limits: Limits) -> Prospects:
    """Return the prospects of more trials; a trial improved the front if no earlier one is as good in everything."""
    ended = [trial for trial in run.trials if trial.outcome is not None and not trial.role]
    recent = {trial.number for trial in ended[-RECENT:]}
    known, improved = minimised(()), 0
    for trial in run.trials:
        found = deciding(trial.outcome, limits.distance) if isinstance(trial.outcome, tuple) else None
        if found is not None and limits.satisfied_by(found):
            point = minimised((found,))
            improved += trial.number in recent and not (known <= point).all(axis=1).any()
            known = np.concatenate([known, point])
    stopped = [trial.outcome for trial in ended if isinstance(trial.outcome, Infeasible)]
    return Prospects(
        recent=len(recent),
        improved=improved,
        reopened=sum(not limits.still_valid(outcome) for outcome in stopped),
        floor_ms=None if run.profile is None else run.profile.floor_ms,
    )


def advice(run: Run, front: ParetoFront, chosen: Model | None) -> list[str]:
    """Say whether more trials would help, with the command for more trials or for a final evaluation."""
    seen, limits = prospects(run, front.limits), front.limits
    count = sum(trial.outcome is not None for trial in run.trials)
    lines = []
    if chosen is not None and chosen.measurement.rung != "final":
        does = "meets" if front.meets(chosen) else "is nearest to"
        so = "trained and measured briefly" if chosen.measurement.rung == "short" else "not yet measured carefully"
        lines.append(
            f"{chosen.id} {does} {limits}, but was {so}. For its final evaluation: {resume_command(run, limits, count)}"
        )
    if seen.floor_ms is not None and seen.floor_ms > limits.target_ms:
        lines.append(
            f"No trial can meet {limits.target_ms:g} ms: the fastest network that this study can express "
            f"takes {seen.floor_ms:.3g} ms."
        )
        return lines
    more = resume_command(run, limits, count + MORE)
    if seen.reopened:
        lines.append(f"{_trials(seen.reopened)} were stopped for stricter limits and may meet these: {more}")
    elif seen.recent and seen.improved:
        lines.append(f"More trials may help: {seen.improved} of the last {seen.recent} improved the front. {more}")
    elif seen.recent:
        lines.append(f"More trials would hardly help: none of the last {seen.recent} improved the front.")
    if chosen is not None and seen.floor_ms and chosen.measurement.latency.median_ms < NEAR * seen.floor_ms:
        lines.append(f"It is near the floor of {seen.floor_ms:.3g} ms: this study can express little that is faster.")
    return lines


def resume_command(run: Run, limits: Limits, trials: int) -> str:
    """Return the command that resumes a run with some limits; for a run from Python, a description."""
    command = run.asked.command(run.path, limits=limits, trials=trials) if run.asked else ""
    return command or f"run the study again for {limits} with trials={trials} and out={str(run.path)!r}"


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"
