"""What a command would do, and for how long, is printed before anything is trained; nothing is written."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., subprocess.CompletedProcess[str]]

LINE = ("my_study.py", "--target-latency", "50ms", "--runtime", "fake", "--workers", 0, "--out", "run")
NETWORK = ("--trials", 5)


def planned(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return a plan that was printed as JSON."""
    assert done.returncode == 0, done.stderr
    plan: dict[str, Any] = json.loads(done.stdout)
    return plan


def test_a_plan_of_a_run_that_has_not_begun(folder: Path, warm: Command) -> None:
    """It has the space, what is trained and measured, and the time by one candidate; the user's folder is as it was."""
    before = sorted(folder.rglob("*"))
    plan = planned(warm(folder, *LINE, *NETWORK, "--dry-run", "--json"))
    assert sorted(path for path in folder.rglob("*") if path.parent.name != "__pycache__") == before
    assert {axis["name"] for axis in plan["axes"]} >= {"pruning_ratio", "bits", "rank", "distillation"}
    assert (
        3 < plan["log10_candidates"] < sum(axis["choices"] * math.log10(axis["most"]) for axis in plan["axes"]) + 1e-9
    )
    assert (plan["finished"], plan["trials"], plan["workers"]) == (0, 5, 0)
    assert plan["distance"] == "softmax over axis 1"
    assert plan["distance_why"] == "adding a constant to all classes does not change the loss"
    assert plan["rests_on"].startswith("one candidate")
    assert 0 < plan["baseline_ms"] < 50
    assert plan["costs"]["epoch_s"] > 0
    for part in ("network", "search", "finals", "whole"):
        assert 0 <= plan[part]["least_s"] <= plan[part]["about_s"] <= plan[part]["most_s"]


def test_a_plan_of_a_run_that_goes_on(folder: Path, warm: Command) -> None:
    """It rests on the trials that there are, and tells only what is left; in words it fits 80 columns."""
    run = warm(folder, *LINE, "--trials", 6, "--no-promote", "--quiet")
    assert run.returncode == 0, run.stderr
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    plan = planned(warm(folder, *LINE, "--trials", 6, "--dry-run", "--json"))
    assert plan["rests_on"] == "the 6 trials that run has"
    assert (plan["finished"], plan["starts"], plan["profiled"]) == (6, 0, True)
    assert plan["search"]["most_s"] == plan["finals"]["most_s"] == 0
    told = warm(folder, *LINE, "--trials", 20, "--dry-run", "--quiet")
    assert "14 (6 are done)" in told.stdout
    assert "based on" in told.stdout
    assert "distance   to the teacher's outputs: softmax over axis 1, because adding a" in told.stdout
    assert f"unchanged  about {plan['baseline_ms']:.3g} ms" in told.stdout
    assert max(map(len, told.stdout.splitlines())) <= 80
    assert told.stderr == ""
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()} == before
