"""Which choices mattered."""

from __future__ import annotations

import pytest

from autocompress.reports.importance import LEAST_TRIALS, importances

from .conftest import Tell


def test_the_choice_that_decides_is_the_most_important(tell: Tell) -> None:
    """Of choices by chance, the dearest layer's pruning explains most of the latency; few trials tell nothing."""
    told = tell(300, layers=3)
    found = importances(told.trials)
    dearest = max(told.profile.costs.layer_ms, key=lambda name: told.profile.costs.layer_ms[name])
    first = found["objectives"]["latency"]["choices"][0]
    assert first["choice"].startswith("pruning_ratio:")
    assert dearest in {each["choice"].partition(":")[2] for each in found["objectives"]["latency"]["choices"][:3]}
    assert sum(each["share"] for each in found["objectives"]["size"]["axes"]) == pytest.approx(1, abs=0.01)
    assert importances(told.trials[: LEAST_TRIALS - 1])["objectives"] == {}
