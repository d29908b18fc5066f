"""Workers that cannot write to the run directory: files travel through a store, and the run directory is whole."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from optuna.trial import FrozenTrial, TrialState

Command = Callable[..., subprocess.CompletedProcess[str]]
Trials = Callable[[Path], list[FrozenTrial]]

LINE = ("my_study.py", "--target-latency", "50ms", "--out", "run", "--runtime", "fake", "--trials", "7")


def test_a_study_whose_files_are_in_a_store(folder: Path, command: Command, trials: Trials) -> None:
    """The front is complete in the run directory, and the store has its trials only."""
    out, store = folder / "run", folder / "store"
    done = command(folder, *LINE, "--artifacts", f"file://{store}", "--workers", 2)
    assert done.returncode == 0, done.stderr
    front = pandas.read_csv(out / "pareto.csv")
    for path in front.path:
        assert {"model.onnx", "model.safetensors", "candidate.json"} <= {file.name for file in (out / path).iterdir()}
    assert not (out / "trials").exists()
    kept = {path.parent.name: json.loads(path.read_text()) for path in store.rglob("manifest.json")}
    finished = [t for t in trials(out) if t.state == TrialState.COMPLETE]
    assert kept.keys() <= {f"{t.number:05d}" for t in finished}
    assert {path.removeprefix("models/") for path in front.path if path.startswith("models/")} <= kept.keys()
    assert any("ancestor.safetensors" in manifest["files"] for manifest in kept.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--artifacts", "nonsense://x"), "--artifacts must be the URL"),
        (("--trial-memory", "8"), "--trial-memory must be a positive number with a unit"),
        (("--trial-memory", "8GB", "--workers", 0), "--trial-memory ends a trial's process"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    folder: Path, command: Command, given: tuple[str, ...], message: str
) -> None:
    """The exit code is that of a wrong option, and nothing was written."""
    done = command(folder, *LINE, *given)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not (folder / "run").exists()


def test_a_trial_over_its_memory_is_infeasible(folder: Path, command: Command) -> None:
    """Even the unchanged network needs more than a megabyte: the message says what gives it more."""
    done = command(folder, *LINE, "--trial-memory", "1MB", "--workers", 1)
    assert done.returncode == 2, done.stderr
    assert "it needed more than 1 MB of memory (--trial-memory gives more)" in done.stderr
