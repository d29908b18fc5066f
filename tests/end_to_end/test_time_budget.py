"""A time budget that ends before the first candidate still brings an answer."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_an_answer_after_no_time(folder: Path, warm: Command) -> None:
    """The unchanged network is measured and reported with why nothing else is there; the same command resumes."""
    line = ("my_study.py", "--target-latency", "0.5us", "--runtime", "fake", "--workers", 0, "--out", "run")
    done = warm(folder, *line, "--trials", 3, "--time-budget", "0.1s")
    assert done.returncode == 1, done.stderr
    assert "the time was over before a candidate was tried" in done.stderr
    assert "No candidate was measured completely" in done.stdout
    assert "The unchanged network misses 0.0005 ms." in done.stdout
    assert list(pandas.read_csv(folder / "run" / "pareto.csv").id) == ["baseline"]
    more = warm(folder, *line, "--trials", 3, "--quiet")
    assert more.returncode == 1
    assert "is the nearest" in more.stdout
    assert more.stderr == ""
