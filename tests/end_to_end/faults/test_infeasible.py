"""What cannot be built, trained or scored is a row with its reason, and the search continues."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]

BROKEN = {16, 32, 40, 48}
"""Widths of the second convolution that do not come through; the others do, though one cannot be trained."""

UNTRAINED = 24
"""That width."""

TRIALS = 20

UNEXPORTABLE = """
import torch
from my_study import Net, trained

class Unexportable(Net):
    def forward(self, x):
        return super().forward(x) + 0 * torch.linalg.svdvals(x.flatten(1)).sum()

def task():
    return trained(Unexportable())
"""


@pytest.fixture(scope="module")
def fragile(
    tmp_path_factory: pytest.TempPathFactory, study_folder: Callable[[Path], Path], warm: Command
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return the run directory of a study that breaks in many ways, and how its command ended."""
    folder = study_folder(tmp_path_factory.mktemp("user"))
    line = ("fragile_study.py", "--target-latency", "50ms", "--out", "run", "--trials", TRIALS, "--workers", 2)
    everywhere = ("--sampler", "random", "--seed", 67, "--no-promote")  # with that one every width comes soon
    return folder / "run", warm(folder, *line, *everywhere, "--runtime", "fake", "--trial-timeout", "20s")


@pytest.fixture(scope="module")
def table(fragile: tuple[Path, subprocess.CompletedProcess[str]]) -> pandas.DataFrame:
    """Return the table of the trials that were begun, with the width of the second convolution."""
    rows = pandas.read_csv(fragile[0] / "trials.csv", keep_default_na=False)
    rows = rows[rows.state != "waiting"]
    ratios = [json.loads(text).get("pruning_ratio", {}).get("body.2", 0.0) for text in rows.candidate]
    return rows.assign(width=[round(64 * (1 - ratio)) for ratio in ratios])


@pytest.mark.slow
def test_the_search_goes_on(fragile: tuple[Path, subprocess.CompletedProcess[str]], table: pandas.DataFrame) -> None:
    """The run ends well with what could be measured, and each trial has its row."""
    out, done = fragile
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(table) == TRIALS
    complete = table[table.state == "complete"]
    assert not set(complete.width) & BROKEN
    assert 64 in set(complete.width)
    assert set(complete.reason) == {""}
    front = pandas.read_csv(out / "pareto.csv")
    assert len(front) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "rung", "reason"),
    [
        pytest.param(40, "build", "40 channels cannot be shared among the heads", id="forward raises"),
        pytest.param(16, "build", "the network does not export to ONNX", id="does not export"),
        pytest.param(48, "one-shot", "ZeroDivisionError: no class differs from the others", id="metric raises"),
        pytest.param(32, "timeout", "it did not end within 20 s", id="hangs"),
    ],
)
def test_a_broken_candidate_has_its_reason(table: pandas.DataFrame, width: int, rung: str, reason: str) -> None:
    """Candidates of the broken width are infeasible, with the rung where they ended and one sentence.

    Some have another reason: pruned in steps, they broke at a width on the way.
    """
    rows = table[table.width == width]
    assert len(rows)
    assert set(rows.state) == {"pruned"}
    assert all(rows.reason)
    assert any(given == rung and reason in why for given, why in zip(rows.rung, rows.reason, strict=True))


@pytest.mark.slow
def test_a_candidate_whose_training_fails_stands_as_it_was_before(
    fragile: tuple[Path, subprocess.CompletedProcess[str]], table: pandas.DataFrame
) -> None:
    """It was built, timed and scored, so it is a model, with a warning that has the reason."""
    rows = table[table.width == UNTRAINED]
    assert len(rows)
    assert set(rows.state) == {"complete"}
    points = json.loads((fragile[0] / "report.json").read_text())["points"]
    warned = [point for point in points if any("the loss became nan" in warning for warning in point["warnings"])]
    assert {point["trial"] for point in warned} >= set(rows.trial)
    assert {point["accuracy"] == point["one_shot_accuracy"] for point in warned} == {True}


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["40 channels", "does not export", "loss became nan", "no class", "did not end"])
def test_the_user_is_told(fragile: tuple[Path, subprocess.CompletedProcess[str]], reason: str) -> None:
    """Each infeasible trial, and each that cannot be trained, is a line on stderr while the search runs."""
    lines = fragile[1].stderr.splitlines()
    assert any(reason in line for line in lines if "is infeasible" in line or "could not be trained" in line)


def test_a_network_that_cannot_be_exported_is_refused(folder: Path, warm: Command) -> None:
    """The unchanged network must be exported before anything is compared to it: exit code 2 and the reason."""
    (folder / "unexportable.py").write_text(UNEXPORTABLE)
    done = warm(folder, "unexportable.py", "--target-latency", "5ms", "--runtime", "fake", "--workers", 0)
    assert done.returncode == 2
    assert "the unchanged network must be exported" in done.stderr
    assert not (folder / "runs").exists() or not list((folder / "runs").iterdir())
    assert "svdvals" in done.stderr
    assert "Traceback" not in done.stderr
