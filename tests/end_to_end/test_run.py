"""The command from a user's study to the files of the front, on the real runtime."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from optuna.trial import FrozenTrial

from autocompress.evaluators.outcome_json import from_json
from autocompress.evaluators.scores import unpacked
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run import open_run

Command = Callable[..., subprocess.CompletedProcess[str]]
Finished = tuple[Path, tuple[str, ...], subprocess.CompletedProcess[str]]

COLUMNS = {
    "id",
    "meets_target",
    "latency_ms",
    "latency_low_ms",
    "latency_high_ms",
    "accuracy",
    "test_accuracy",
    "size_bytes",
    "params",
    "macs",
    "path",
}
FILES = {"model.onnx", "model.safetensors", "candidate.json", "measurement.json", "predictions.npz"}

SERVE = """
import sys
import numpy
import onnxruntime
for folder in sys.argv[1:]:
    session = onnxruntime.InferenceSession(folder + "/model.onnx", providers=["CPUExecutionProvider"])
    stored = numpy.load(folder + "/predictions.npz")
    feeds = {node.name: stored[f"input{i}"] for i, node in enumerate(session.get_inputs())}
    numpy.testing.assert_allclose(session.run(None, feeds)[0], stored["output"], rtol=1e-3, atol=1e-3)
    print(folder)
assert not any(name.startswith(("autocompress", "torch")) for name in sys.modules)
"""

CALL = """
from autocompress import Task, compress
from my_study import task

made = task()
assert isinstance(made, Task)
front = compress(made, "50ms", runtimes=("fake",), workers=0, trials=3, out="run")
print(type(front).__name__, front.meets_target, front.recommended.id, sep="|")
print(front.to_pandas().to_csv(index=False), end="")
"""


def front_of(folder: Path) -> pandas.DataFrame:
    """Return the front that a run left in a user's folder."""
    return pandas.read_csv(folder / "run" / "pareto.csv", dtype={"id": str})


@pytest.fixture(scope="module")
def front(finished: Finished) -> pandas.DataFrame:
    """Return the front of the finished run."""
    return front_of(finished[0])


def test_a_run_ends_well(finished: Finished, front: pandas.DataFrame) -> None:
    """The exit code is 0, tables and picture are there, and nothing else is new in the user's folder."""
    folder, _, done = finished
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert {"pareto.csv", "pareto.png", "trials.csv", "study.journal"} <= {
        path.name for path in (folder / "run").iterdir()
    }
    assert (folder / "run" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads((folder / "run" / "report.json").read_text())
    assert told["state"] == "finished"
    assert told["headline"]["meets"]
    assert told["scored"]["validation"]
    assert told["network"]["distance"].startswith("softmax over axis 1, since")
    assert told["study"]["command"].startswith("autocompress my_study.py --target-latency 50ms")
    assert (folder / "run" / "report.html").read_text().count(told["headline"]["model"]) > 1
    assert "meets it**" in (folder / "run" / "report.md").read_text()
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {"my_study.py", "fragile_study.py", "run"}


def test_an_opened_run_has_the_front_that_the_run_left(finished: Finished, front: pandas.DataFrame) -> None:
    """Without the task, its front is the table's; every model has its files, and the command that resumes is known."""
    folder, words, _ = finished
    run = open_run(folder / "run")
    again = run.front().to_pandas()
    assert list(again.id) == list(front.id)
    assert list(again.latency_ms) == list(front.latency_ms)
    assert run.finished
    assert all((folder / "run" / m.path / m.measurement.file).exists() for m in run.front().models)
    assert run.asked is not None
    assert run.asked.command(Path("run")).split()[1:4] == list(words[:3])


def test_a_report_is_written_anew_for_another_target(finished: Finished, command: Command) -> None:
    """`autocompress report` judges what was found by the target it is given, runs no trial, and leaves the models."""
    folder, _, done = finished
    models = sorted(path.name for path in (folder / "run" / "models").iterdir())
    again = command(folder, "report", "run", "--target-latency", "1us")
    assert again.returncode == 0, again.stderr
    assert "Nothing meets 0.001 ms" in again.stdout
    assert json.loads((folder / "run" / "report.json").read_text())["limits"]["target_ms"] == 0.001
    back = command(folder, "report", "run")
    assert back.stdout.startswith(done.stdout.rstrip("\n"))
    assert sorted(path.name for path in (folder / "run" / "models").iterdir()) == models
    assert command(folder, "report", "nowhere").returncode == 2


def test_a_model_is_picked_from_a_run(finished: Finished, command: Command) -> None:
    """The recommended one, which answers in a fresh process as it did; its card tells the study and the layers."""
    folder, _, _ = finished
    best = open_run(folder / "run").front().recommended
    assert best is not None
    done = command(folder, "pick", "run", "-o", "picked/the best")
    assert done.returncode == 0, done.stderr
    assert "are the same as when it was measured" in done.stdout
    card = (folder / "picked" / "the best" / "README.md").read_text()
    assert f"# my_study {best.id}" in card
    assert "`my_study.py`" in card
    shutil.rmtree(folder / "picked")


def test_the_front_is_a_table_with_the_baseline(front: pandas.DataFrame) -> None:
    """The baseline has a row, and every model of the front meets the target and is scored on the test data."""
    assert set(front.columns) >= COLUMNS
    models = front[front.id != "baseline"]
    assert len(front) == len(models) + 1
    assert len(models)
    assert models.meets_target.all()
    assert not front.test_accuracy.isna().any()
    assert (front.latency_low_ms <= front.latency_ms).all()
    assert (front.latency_ms <= front.latency_high_ms).all()
    assert models.accuracy.max() > 0.5


def test_every_trial_has_a_row(finished: Finished) -> None:
    """The trials' table has as many rows as trials were asked for, each with an outcome."""
    table = pandas.read_csv(finished[0] / "run" / "trials.csv")
    done = table[table.state.isin(["complete", "pruned"])]
    assert len(done) == int(finished[1][finished[1].index("--trials") + 1])
    assert set(table.state) <= {"complete", "pruned"}
    assert table.role[0] == "baseline"


def test_each_model_is_complete(finished: Finished, front: pandas.DataFrame) -> None:
    """A model's files are there, read back through the package, and agree with its row and the calibration."""
    baseline = json.loads((finished[0] / "run" / "calibration.json").read_text())
    spread = (baseline["high_ms"] - baseline["low_ms"]) / 2 / baseline["median_ms"]
    for row in front.itertuples():
        folder = finished[0] / "run" / row.path
        assert {path.name for path in folder.iterdir()} >= FILES
        candidate = Candidate.from_json((folder / "candidate.json").read_text())
        assert candidate.to_json() == (folder / "candidate.json").read_text()
        (measurement,) = from_json((folder / "measurement.json").read_text())
        assert measurement.accuracy == pytest.approx(row.accuracy)
        for scores, accuracy in (
            (measurement.scores, row.accuracy),
            (measurement.test_scores, row.test_accuracy),
        ):
            each = unpacked(scores)
            assert each is not None
            assert each.mean() == pytest.approx(accuracy)
        assert measurement.latency.median_ms == pytest.approx(row.latency_ms, abs=1e-4)
        assert measurement.latency.baseline_spread == pytest.approx(spread)
        assert row.size_bytes == measurement.size_bytes == (folder / "model.onnx").stat().st_size
    assert front.path.is_unique
    assert (front[front.id == "baseline"].path == "baseline").all()


def test_each_model_serves_without_us(finished: Finished, front: pandas.DataFrame, script: Command) -> None:
    """In a fresh process, plain ONNX Runtime reproduces the stored predictions of every model."""
    done = script(finished[0] / "run", SERVE, *front.path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(front.path)


def test_the_table_names_the_recommended_model(finished: Finished, front: pandas.DataFrame) -> None:
    """What is printed points at the most accurate model that meets the target, and at its file."""
    folder, _, done = finished
    models = front[front.id != "baseline"]
    best = models.sort_values(["accuracy", "size_bytes"], ascending=[False, True]).iloc[0]
    assert f"→ {best.id} meets 50 ms" in done.stdout
    assert f"run/{best.path}/model.onnx" in done.stdout
    assert "baseline" in done.stdout
    assert (folder / "run" / best.path / "model.onnx").exists()


def test_the_same_command_adds_nothing(
    finished: Finished, warm: Command, trials: Callable[[Path], list[FrozenTrial]]
) -> None:
    """A run that is done reproduces its front without another trial."""
    folder, line, done = finished
    tables = [folder / "run" / name for name in ("pareto.csv", "trials.csv")]
    before = [table.read_text() for table in tables]
    number = len(trials(folder / "run"))
    again = warm(folder, *line)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    assert [table.read_text() for table in tables] == before
    assert len(trials(folder / "run")) == number


def test_memory_is_added_to_a_finished_study(finished: Finished, warm: Command, tmp_path: Path) -> None:
    """A study is resumed under a limit on memory: what was trained is measured, not trained again."""
    folder = tmp_path / "user"
    shutil.copytree(finished[0], folder)
    before = pandas.read_csv(folder / "run" / "trials.csv")
    line = [str(part) for part in finished[1]]
    line[line.index("--trials") + 1] = str(len(before) + 2)
    line[line.index("--workers") + 1] = "0"
    done = warm(folder, *line, "--max-memory", "4GB")
    assert done.returncode == 0, done.stderr
    added = pandas.read_csv(folder / "run" / "trials.csv").iloc[len(before) :]
    assert added.memory_bytes.between(10**6, 4 * 10**9).all()
    again = before.set_index("candidate").loc[added.candidate]
    assert added.accuracy.tolist() == again.accuracy.tolist()
    assert added.latency_ms.tolist() == again.latency_ms.tolist()
    front = front_of(folder)
    assert front[front.id != "baseline"].meets_target.all()
    assert front.memory_bytes.between(10**6, 4 * 10**9).all()
    assert "4000 MB of memory" in " ".join(done.stdout.split())


def test_a_target_out_of_reach_names_the_nearest(folder: Path, warm: Command) -> None:
    """The exit code is 1; the nearest model, the floor and the files are there all the same."""
    line = ("my_study.py", "--target-latency", "1us", "--out", "run", "--trials", "6", "--workers", "0")
    done = warm(folder, *line, "--runtime", "fake")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    front = front_of(folder)
    nearest = front.sort_values("latency_ms").iloc[0]
    assert f"Nothing meets 0.001 ms. → {nearest.id} is the nearest" in done.stdout
    assert "The floor, measured" in done.stdout
    assert not front.meets_target.any()
    for path in front.path:
        assert {file.name for file in (folder / "run" / path).iterdir()} >= FILES


def test_the_call_does_what_the_command_does(folder: Path, script: Command) -> None:
    """`compress` takes a `Task` and returns a `ParetoFront`, whose table is the one on disk."""
    done = script(folder, CALL)
    assert done.returncode == 0, done.stderr
    first, _, table = done.stdout.partition("\n")
    kind, meets, best = first.split("|")
    assert (kind, meets) == ("ParetoFront", "True")
    assert table == (folder / "run" / "pareto.csv").read_text()
    assert best in set(front_of(folder).id)
    assert json.loads((folder / "run" / "study.json").read_text())["study"] == "task"
