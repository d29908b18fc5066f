"""How the search went: its hypervolume, its time, and where trials ended."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from autocompress.pareto.limits import Limits
from autocompress.pareto.objectives import front_hypervolume
from autocompress.reports import search_history as module
from autocompress.reports.search_history import Busy, search_history
from autocompress.storage.trials import Trial

from .conftest import BEGAN, Tell


def test_the_hypervolume_ends_with_that_of_all_models(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never falls, ends with that of all that meet the limits, and is reported at few points of many trials."""
    told = tell(ended=False)
    line = search_history(told.front, told.trials)["hypervolume"]
    assert [step["trials"] for step in line] == list(range(1, len(told.trials) + 1))
    assert [step["value"] for step in line] == sorted(step["value"] for step in line)
    all_models = [t.outcome[0] for t in told.trials if isinstance(t.outcome, tuple)]
    meeting = [m for m in all_models if told.front.limits.satisfied_by(m)]
    expected = front_hypervolume(meeting, told.front.baseline.measurement, told.front.target_ms)
    assert line[-1]["value"] == pytest.approx(expected, abs=1e-4)
    assert expected > 0
    monkeypatch.setattr(module, "STEPS", 7)
    few = search_history(told.front, told.trials)["hypervolume"]
    assert len(few) <= 9
    assert few[-1] == line[-1]


def test_pauses_of_a_study_do_not_count() -> None:
    """Seconds are those in which some trial ran, trials side by side counted once."""

    def trial(number: int, start: float, end: float) -> Trial:
        return Trial(
            number=number,
            state="complete",
            began=BEGAN + timedelta(seconds=start),
            ended=BEGAN + timedelta(seconds=end),
        )

    busy = Busy([trial(0, 0, 10), trial(1, 5, 15), trial(2, 1000, 1010)])
    assert busy.until(float("inf")) == 25
    assert busy.until((BEGAN + timedelta(seconds=1004)).timestamp()) == 19


def test_where_trials_ended_is_judged_by_the_limits_of_today(tell: Tell) -> None:
    """Counts add up to all trials; failures are reported with their reasons; a stricter target makes some miss it."""
    told = tell(broken="no such operator", ended=False)
    ends = {end["end"]: end for end in search_history(told.front, told.trials)["ends"]}
    assert sum(end["trials"] for end in ends.values()) == len(told.trials)
    assert ends["failed"]["reasons"] == [{"reason": "build: no such operator", "trials": ends["failed"]["trials"]}]
    assert ends["slow"]["trials"] > 0
    strict = replace(told.front, limits=Limits(2.0))
    stricter = {end["end"]: end["trials"] for end in search_history(strict, told.trials)["ends"]}
    assert stricter["missed"] > ends.get("missed", {"trials": 0})["trials"]
