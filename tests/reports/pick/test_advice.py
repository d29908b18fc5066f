"""A finished study says whether more trials would help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.evaluators.measurement import Measurement
from autocompress.pareto.dominance import hypervolume
from autocompress.pareto.limits import Limits
from autocompress.pareto.objectives import minimised
from autocompress.reports.pick.advice import RECENT, advice, prospects
from autocompress.storage.run import open_run

MadeRun = Callable[..., Path]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_last_trials_are_asked_what_they_brought(seed: int, made_run: MadeRun, tmp_path: Path) -> None:
    """As many improved the front as made the volume larger that it dominates."""
    run = open_run(made_run(tmp_path / "run", trials=40, seed=seed))
    limits = run.limits
    reference = minimised(m.measurement for m in run.models).max(axis=0) + 1
    known: list[Measurement] = []
    grew = []
    for trial in run.trials:
        before = hypervolume(minimised(known), reference)
        if isinstance(trial.outcome, tuple) and limits.satisfied_by(trial.outcome[0]):
            known.append(trial.outcome[0])
        if not trial.role:
            grew.append(hypervolume(minimised(known), reference) > before)
    seen = prospects(run, limits)
    assert (seen.recent, seen.improved) == (RECENT, sum(grew[-RECENT:]))
    said = " ".join(advice(run, run.front(), None))
    assert (f"{seen.improved} of the last {RECENT} improved the front" in said) == (seen.improved > 0)
    assert ("would hardly help" in said) == (seen.improved == 0)


def test_the_floor_is_told_where_a_model_is_near_it(made_run: MadeRun, tmp_path: Path) -> None:
    """Nothing can be much faster than what everything at its strongest takes."""
    run = open_run(made_run(tmp_path / "run", trials=40))
    front = run.front()
    fastest = min(front.models, key=lambda m: m.measurement.latency.median_ms)
    assert run.profile is not None
    assert run.profile.floor_ms is not None
    near = fastest.measurement.latency.median_ms < 1.25 * run.profile.floor_ms
    assert any("near the floor" in line for line in advice(run, front, fastest)) == near
    assert any("No trial can meet" in line for line in advice(run, run.front(Limits(0.01)), None))
