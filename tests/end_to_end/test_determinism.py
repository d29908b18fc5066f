"""The same seed gives the same search."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

NARROW = """
import torch
from my_study import Net, trained

def task():
    torch.manual_seed(0)
    return trained(Net(16, 16, 16))
"""
TRIALS = 14


@pytest.fixture(scope="module")
def searches(
    tmp_path_factory: pytest.TempPathFactory, study_folder: Callable[[Path], Path], command: Command, warm: Command
) -> Path:
    """Return a folder with two runs of one seed and one of another."""
    folder = study_folder(tmp_path_factory.mktemp("user"))
    (folder / "narrow.py").write_text(NARROW)
    for run, out, seed in ((command, "first", 1), (command, "second", 1), (warm, "other", 2)):
        line = ("narrow.py", "--target-latency", "90us", "--runtime", "fake", "--workers", 0, "--trials", TRIALS)
        done = run(folder, *line, "--out", out, "--seed", seed, "--epochs", 0.2)
        assert done.returncode in (0, 1), done.stderr
    return folder


@pytest.mark.parametrize("table", ["trials.csv", "pareto.csv"])
def test_a_seed_repeats_itself(searches: Path, table: str) -> None:
    """Two runs of a seed try the same candidates in the same order, with equal results to the last digit."""
    assert (searches / "first" / table).read_text() == (searches / "second" / table).read_text()


def test_another_seed_searches_elsewhere(searches: Path) -> None:
    """The seed decides which candidates come after the warm start, which is the same for all."""
    first, other = (pandas.read_csv(searches / out / "trials.csv").candidate for out in ("first", "other"))
    assert len(first) == len(other) == TRIALS
    assert list(first[:3]) == list(other[:3])
    assert list(first) != list(other)
