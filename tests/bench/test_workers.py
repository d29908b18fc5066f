"""The simulation of many workers, against what can be calculated."""

from __future__ import annotations

from types import ModuleType

import pytest

STAGES = (2.0, 3.0, 15.0)


@pytest.mark.parametrize("pauses", [True, False])
def test_one_worker_takes_the_sum_of_the_stages(bench: dict[str, ModuleType], pauses: bool) -> None:
    """Nobody waits for it, and it waits for nobody."""
    assert bench["workers"].simulated([STAGES] * 20, 1, pauses=pauses) == pytest.approx(60 / sum(STAGES))


@pytest.mark.parametrize("workers", [2, 4, 8, 64])
def test_workers_share_one_device(bench: dict[str, ModuleType], workers: int) -> None:
    """Pauses leave the parallel time only what is not timing; a device elsewhere is the limit by itself."""
    simulated, (before, timed, after) = bench["workers"].simulated, STAGES
    trials = [STAGES] * (100 * workers)
    pausing = 60 / (timed + (before + after) / workers)
    assert simulated(trials, workers) == pytest.approx(pausing, rel=0.05)
    elsewhere = min(60 / timed, 60 * workers / sum(STAGES))
    assert pausing <= simulated(trials, workers, pauses=False) <= elsewhere * 1.001
