"""Limits beside the latency, from the command line to the files of the front."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]

LINE = ("my_study.py", "--target-latency", "50ms", "--out", "run", "--runtime", "fake", "--workers", 0, "--trials")


@pytest.fixture(scope="module")
def limited(
    tmp_path_factory: pytest.TempPathFactory, study_folder: Callable[[Path], Path], warm: Command
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return the folder of a user whose run had limits, and how its command ended."""
    folder = study_folder(tmp_path_factory.mktemp("user"))
    return folder, warm(folder, *LINE, 5, "--max-size", "100kB", "--min-accuracy", "-10%")


def table(folder: Path, name: str) -> pandas.DataFrame:
    """Return a table that a run left."""
    return pandas.read_csv(folder / "run" / name, dtype={"id": str})


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return what was printed, in one line."""
    return " ".join(done.stdout.split())


def test_the_front_meets_every_limit(limited: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The exit code is 0; every model of the front is small and accurate enough, which the baseline is not."""
    folder, done = limited
    assert done.returncode == 0, done.stderr
    front = table(folder, "pareto.csv")
    baseline, models = front[front.id == "baseline"].iloc[0], front[front.id != "baseline"]
    assert not baseline.meets_target
    assert baseline.size_bytes > 100_000
    assert len(models)
    assert models.meets_target.all()
    assert (models.size_bytes <= 100_000).all()
    assert (models.accuracy >= baseline.accuracy - 0.1).all()
    for model in models.itertuples():
        assert (folder / "run" / model.path / model.file).stat().st_size == model.size_bytes
    for part in ("meets 50 ms, 100 kB, ", "Limits: latency up to ", "(at most 100 kB); accuracy ", "(at least "):
        assert part in told(done)


def test_a_limit_out_of_reach_names_the_nearest(
    limited: tuple[Path, subprocess.CompletedProcess[str]], warm: Command
) -> None:
    """A study is resumed under a stricter limit without another trial: exit code 1, and what the nearest misses."""
    folder, _ = limited
    before = table(folder, "trials.csv")
    done = warm(folder, *LINE, 5, "--max-size", "1kB")
    assert done.returncode == 1, done.stderr
    front = table(folder, "pareto.csv")
    assert not front.meets_target.any()
    nearest = front[front.id != "baseline"].sort_values("size_bytes").iloc[0]
    assert f"Nothing meets 50 ms, 1 kB. → {nearest.id} is the nearest" in told(done)
    assert f"It misses: size {nearest.size_bytes / 1e3:.5g} kB, " in told(done)
    assert "× the limit of 1 kB; the best measured value: " in told(done)
    assert table(folder, "trials.csv").trial.tolist() == before.trial.tolist()
