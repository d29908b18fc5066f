"""Workers that cannot write to the run directory: files travel through a store, and the run directory is whole."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from optuna import load_study
from optuna.trial import TrialState

Command = Callable[..., subprocess.CompletedProcess[str]]

LINE = ("my_study.py", "--target-latency", "50ms", "--out", "run", "--runtime", "fake", "--trials", "7")


def check_front(out: Path) -> list[str]:
    """Check that every model of a front has its files; return the names of those that trials have found."""
    paths = pandas.read_csv(out / "pareto.csv").path
    for path in paths:
        assert {"model.onnx", "model.safetensors", "candidate.json"} <= {file.name for file in (out / path).iterdir()}
    assert not (out / "trials").exists()
    return [path.removeprefix("models/") for path in paths if path.startswith("models/")]


def test_a_study_whose_files_are_in_a_store(folder: Path, warm: Command) -> None:
    """The front is complete in the run directory, the store has its trials only, and another driver can finish it."""
    store, database = folder / "store", f"sqlite:///{folder}/study.db"
    line = (*LINE, "--artifacts", f"file://{store}", "--storage", database)
    done = warm(folder, *line, "--workers", 2)
    assert done.returncode == 0, done.stderr
    found = check_front(folder / "run")
    kept = {path.parent.name: json.loads(path.read_text()) for path in store.rglob("manifest.json")}
    trials = load_study(study_name="my_study", storage=database).trials
    assert set(found) <= kept.keys() <= {f"{t.number:05d}" for t in trials if t.state == TrialState.COMPLETE}
    assert any("ancestor.safetensors" in manifest["files"] for manifest in kept.values())
    other = warm(folder, *line, "--out", "other", "--workers", 0)
    assert other.returncode == 0, other.stderr
    assert sorted(check_front(folder / "other")) == sorted(found)
    assert len(load_study(study_name="my_study", storage=database).trials) == len(trials)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--artifacts", "nonsense://x"), "--artifacts must be the URL"),
        (("--trial-memory", "8"), "--trial-memory must be a positive number with a unit"),
        (("--trial-memory", "8GB", "--workers", 0), "--trial-memory ends a trial's process"),
    ],
)
def test_what_cannot_be_is_refused_at_once(folder: Path, warm: Command, given: tuple[str, ...], message: str) -> None:
    """The exit code is that of a wrong option, and nothing was written."""
    done = warm(folder, *LINE, *given)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not (folder / "run").exists()


def test_a_trial_over_its_memory_is_infeasible(folder: Path, warm: Command) -> None:
    """Even the unchanged network needs more than a megabyte: the message says what gives it more."""
    done = warm(folder, *LINE, "--trial-memory", "1MB", "--workers", 1)
    assert done.returncode == 2, done.stderr
    assert "it needed more than 1 MB of memory (--trial-memory gives more)" in done.stderr
