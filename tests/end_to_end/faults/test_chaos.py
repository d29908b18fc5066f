"""Processes are killed at random and databases crash: nothing is lost and nothing is twice."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

pytestmark = pytest.mark.slow

CHAOS = Path(__file__).parents[3] / "bench" / "chaos.py"


def begin(*given: object) -> subprocess.Popen[str]:
    """Begin to torment a study."""
    return subprocess.Popen(
        [sys.executable, str(CHAOS), *map(str, given)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check(process: subprocess.Popen[str], kills: int) -> str:
    """Check what is left of a study, and return what it reports."""
    told, _ = process.communicate(timeout=500)
    assert process.returncode == 0, told
    assert "nothing is lost, nothing is twice, and the front is that of the stored trials" in told
    assert f"{kills} kills" in told
    finished, seen = map(int, re.findall(r"(\d+) trials finished, of which (\d+) were seen", told)[0])
    assert finished > seen >= kills
    return told


def test_killed_drivers_and_workers_lose_nothing() -> None:
    """A journal's study outlives the deaths of its driver and of worker processes."""
    told = check(begin("--kills", 8, "--workers", 1, "--seed", 3), 8)
    drivers, workers = map(int, re.findall(r"(\d+) of drivers, (\d+) of workers", told)[0])
    assert drivers
    assert workers


def test_a_killed_node_loses_nothing() -> None:
    """A whole node of a cluster dies, then the driver; the study continues where the successor is."""
    told = check(begin("--kills", 2, "--nodes", 2, "--more", 3, "--seed", 7), 2)
    assert "1 of drivers, 0 of workers, 1 of nodes" in told


def test_two_drivers_and_a_crashing_database_lose_nothing(server: Any) -> None:
    """Drivers that share a study are killed, and meanwhile the database crashes and comes back."""
    process = begin("--kills", 4, "--workers", 0, "--drivers", 2, "--storage", server.database(), "--seed", 1)
    try:
        for mode in ("immediate", "fast"):
            time.sleep(6)
            server.stop(mode)
            time.sleep(1)
            server.start()
        check(process, 4)
    except BaseException:
        process.kill()
        raise


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of a quarter of a megabyte."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], check=False).returncode:
        pytest.skip("only the superuser may mount a disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_ends_a_run_in_order(small_disk: Path, trials: Callable[[Path], list[FrozenTrial]]) -> None:
    """The error tells the way out; when there is room again, the same command resumes with all that was finished."""
    line = ("--drive", small_disk / "run", "--workers", 0, "--trials", 60)
    full = begin(*line)
    told, _ = full.communicate(timeout=300)
    assert full.returncode
    assert re.search("the disk of .*run' is full. No finished trial is lost: free some space", told)
    done = (TrialState.COMPLETE, TrialState.PRUNED)
    before = {t.number: t for t in trials(small_disk / "run") if t.state in done}
    assert 0 < len(before) < 60
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    more = begin(*line)
    told, _ = more.communicate(timeout=300)
    assert more.returncode == 0, told
    after = {t.number: t for t in trials(small_disk / "run") if t.state in done}
    assert len(after) == 60
    assert {number: after[number] for number in before} == before
