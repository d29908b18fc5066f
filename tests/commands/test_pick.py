"""The command that picks a model, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MadeRun = Callable[..., Path]
Completed = subprocess.CompletedProcess[str]


def run(folder: Path, *arguments: object) -> Completed:
    """Return what the command does in a folder."""
    line = [str(Path(sys.executable).with_name("autocompress")), *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def folder(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder with a run in it."""
    folder = tmp_path_factory.mktemp("user")
    made_run(folder / "runs" / "lights")
    return folder


def test_the_recommended_model_goes_to_a_folder_of_its_own(folder: Path) -> None:
    """It is named by study and id; how it did and what comes next is reported, without a word on stderr."""
    done = run(folder, "pick", "runs/lights")
    assert (done.returncode, done.stderr) == (0, "")
    place = done.stdout.split("/")[0]
    assert place.startswith("lights-0")
    assert (folder / place / "load.py").exists()
    assert "meets 4 ms" in done.stdout
    assert "are the same as when it was measured" in done.stdout
    assert f"python {place}/load.py" in done.stdout
    loaded = subprocess.run(
        [sys.executable, f"{place}/load.py"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() in done.stdout


def test_what_was_picked_is_told_as_data(folder: Path) -> None:
    """With --json, standard output is one document."""
    done = run(folder, "pick", "runs/lights", "--knee", "-o", "the knee", "--json")
    told = json.loads(done.stdout)
    assert (told["folder"], told["meets"], told["runtime"]) == ("the knee", True, "onnxruntime")
    assert (folder / "the knee" / told["file"]).exists()


def test_where_nothing_meets_the_limits_nothing_is_copied(folder: Path) -> None:
    """The exit code is 1; the nearest is reported with the command that picks it all the same."""
    before = sorted(folder.iterdir())
    done = run(folder, "pick", "runs/lights", "--target-latency", "1us")
    assert done.returncode == 1, done.stderr
    assert "Nothing meets 0.001 ms, so nothing was copied" in done.stdout
    assert "autocompress pick runs/lights 0" in done.stdout
    told = run(folder, "pick", "runs/lights", "--target-latency", "1us", "--json")
    assert told.returncode == 1
    assert (json.loads(told.stdout)["folder"], json.loads(told.stdout)["meets"]) == (None, False)
    assert sorted(folder.iterdir()) == before


def test_a_run_of_one_trial_has_its_unchanged_network_alone(folder: Path, made_run: MadeRun) -> None:
    """There is nothing to recommend; the unchanged network can be picked, and the run can be compared."""
    made_run(folder / "runs" / "one", trials=1)
    done = run(folder, "pick", "runs/one")
    assert done.returncode == 2
    assert "must have a model beside its baseline" in done.stderr
    done = run(folder, "pick", "runs/one", "baseline")
    assert done.returncode == 0, done.stderr
    assert (folder / "lights-baseline" / "load.py").exists()
    done = run(folder, "compare", "runs/lights", "runs/one")
    assert done.returncode == 0, done.stderr
    assert "B/A 0.000" in done.stdout


def test_a_model_whose_files_went_meanwhile_is_told(folder: Path, made_run: MadeRun) -> None:
    """The message says what is missing, and nothing is left behind."""
    path = made_run(folder / "runs" / "going")
    for file in path.glob("models/*/predictions.npz"):
        file.unlink()
    done = run(folder, "pick", "runs/going", "-o", "going")
    assert done.returncode == 2
    assert "has no predictions.npz" in done.stderr
    assert not (folder / "going").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("runs",), "RUN must be a run directory, which has a study.json"),
        (("runs/lights", "0", "--knee"), "selected in one way"),
        (("runs/lights", "--target-latency", "4"), "--target-latency must be"),
    ],
)
def test_what_cannot_be_done_is_told(words: tuple[str, ...], said: str, folder: Path) -> None:
    """The exit code is 2, and the message is one of ours."""
    done = run(folder, "pick", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
