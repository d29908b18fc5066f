"""Runs of an earlier version are opened, reported, compared, picked from and resumed; see ``old_runs/README.md``."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas
import pytest
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import autocompress

Command = Callable[..., subprocess.CompletedProcess[str]]
Unpack = Callable[..., Path]

STORED = Path(__file__).with_name("old_runs")
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
PROSE = {"reason", "warnings"}
"""Fields of a report that hold sentences, which another version may word differently."""


@pytest.fixture
def unpack(tmp_path: Path) -> Unpack:
    """Return a function that unpacks stored runs and their study into the user's folder, and returns that."""

    def fill(*names: str) -> Path:
        for name in ("small_study.py", "small_weights.safetensors"):
            shutil.copyfile(STORED / name, tmp_path / name)
        for name in names:
            with tarfile.open(STORED / f"{name}.tar.xz") as archive:
                archive.extractall(tmp_path, filter="data")
        return tmp_path

    return fill


def report_of(out: Path) -> dict[str, Any]:
    """Return the report of a run as data."""
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def points_of(out: Path) -> dict[str, dict[str, Any]]:
    """Return all models and trials in a run's report by their keys."""
    return {p["key"]: {name: p[name] for name in p.keys() - PROSE} for p in report_of(out)["points"]}


def as_then(now: Any, then: Any) -> Any:
    """Return what a report tells now without the fields that it had not then."""
    if isinstance(now, dict) and isinstance(then, dict):
        return {name: as_then(value, then[name]) for name, value in now.items() if name in then}
    return now


def fronts_of(out: Path) -> list[dict[str, Any]]:
    """Return the fronts in a run's report, each with the keys of its models."""
    return [{name: front[name] for name in front.keys() - {"reasons"}} for front in report_of(out)["fronts"]]


def tables_of(out: Path) -> dict[str, str]:
    """Return the fronts of a run as tables, by the names of their files."""
    return {path.name: path.read_text() for path in out.glob("pareto*.csv")}


def command_of(out: Path) -> list[str]:
    """Return the arguments of the command that resumes a run, as its report gives them."""
    return shlex.split(report_of(out)["study"]["command"])[1:]


def trials_of(storage: BaseStorage) -> dict[int, tuple[TrialState, dict[str, Any]]]:
    """Return the state of each trial in a storage and what is known of it, by its number."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    (study,) = storage.get_all_studies()
    trials = storage.get_all_trials(study._study_id)
    return {t.number: (t.state, {**t.user_attrs, "values": t.values, "ended": t.datetime_complete}) for t in trials}


@pytest.mark.parametrize("name", ["finished", "two_devices"])
def test_the_report_of_an_old_run_keeps_its_fronts(name: str, unpack: Unpack, warm: Command) -> None:
    """`autocompress report` writes the same fronts, reference baselines and trials as the run itself did."""
    out = unpack(name) / name
    fronts, points, tables = fronts_of(out), points_of(out), tables_of(out)
    done = warm(out.parent, "report", name)
    assert done.returncode == 0, done.stderr
    assert fronts_of(out) == fronts
    assert points_of(out).keys() == points.keys()
    assert as_then(points_of(out), points) == points
    assert tables_of(out) == tables
    assert (out / "report.html").exists()


def test_an_old_run_is_opened_from_python(unpack: Unpack) -> None:
    """Its front is that of its table, and its trials are those of its table, with the reasons of the infeasible."""
    out = unpack("finished") / "finished"
    run = autocompress.open_run(out)
    front = run.front()
    assert front.to_pandas().to_csv(index=False) == (out / "pareto.csv").read_text()
    assert run.finished
    assert run.limits.target_ms == 0.09
    rows = pandas.read_csv(out / "trials.csv", keep_default_na=False)
    assert [(t.number, t.state) for t in run.trials] == list(zip(rows.trial, rows.state, strict=True))
    reasons = [t.outcome.reason for t in run.trials if isinstance(t.outcome, autocompress.Infeasible)]
    assert reasons == [reason for reason in rows.reason if reason]
    for model in front.models:
        assert (out / model.path / "candidate.json").read_text() == model.candidate.to_json()


def test_an_old_run_on_two_devices_is_opened_from_python(unpack: Unpack) -> None:
    """The front for both devices and the front on each are those of the tables."""
    out = unpack("two_devices") / "two_devices"
    front = autocompress.open_run(out).front()
    found = {"pareto.csv": front, **{f"pareto-{alone.name}.csv": alone for alone in front.portfolio}}
    assert {name: each.to_pandas().to_csv(index=False) for name, each in found.items()} == tables_of(out)


def test_a_model_is_picked_from_an_old_run(unpack: Unpack, warm: Command) -> None:
    """The recommended model is copied, and its copy runs in a fresh process."""
    folder = unpack("finished")
    done = warm(folder, "pick", "finished", "-o", "served", "--json")
    assert done.returncode == 0, done.stderr
    picked = json.loads(done.stdout)
    assert f"{picked['model']}@fake" == report_of(folder / "finished")["fronts"][0]["recommended"]
    assert picked["proof"]
    assert {"model.onnx", "load.py"} <= {path.name for path in (folder / "served").iterdir()}


def test_old_runs_are_compared(unpack: Unpack, warm: Command) -> None:
    """The fronts of two runs are those of their tables."""
    folder = unpack("finished", "two_devices")
    done = warm(folder, "compare", "finished", "two_devices", "--json")
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)
    for side in (compared["a"], compared["b"]):
        table = pandas.read_csv(folder / side["run"] / "pareto.csv", dtype={"id": str})
        models = pandas.DataFrame(side["models"])
        columns = ["id", "accuracy", "latency_ms", "size_bytes"]
        assert models[columns].equals(table[columns])


def test_a_finished_old_run_stays_as_it_is(unpack: Unpack, warm: Command) -> None:
    """The same command adds no trial and trains no model again."""
    out = unpack("finished") / "finished"
    kept = [out / "pareto.csv", out / "trials.csv", *sorted(out.glob("models/*/model*"))]
    before = [path.read_bytes() for path in kept]
    done = warm(out.parent, *command_of(out))
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.parametrize("name", ["interrupted", "in_database"])
def test_an_old_run_is_resumed(name: str, unpack: Unpack, warm: Command) -> None:
    """Finished trials stay as they are, the interrupted one is tried again, and the front is finished."""
    folder = unpack(name)
    out = folder / "interrupted"
    url = f"sqlite:///{folder / 'study.db'}" if name == "in_database" else None

    def trials() -> dict[int, tuple[TrialState, dict[str, Any]]]:
        journal = JournalFileBackend(str(out / "study.journal"))
        return trials_of(JournalStorage(journal) if url is None else RDBStorage(url))

    front = autocompress.open_run(out, storage=url).front()
    assert front.to_pandas().to_csv(index=False) == (out / "pareto.csv").read_text()
    before = trials()
    finished = {number: trial for number, trial in before.items() if trial[0] in DONE}
    running = {number for number, (state, _) in before.items() if state == TrialState.RUNNING}
    assert (len(finished), len(running)) == (6, 1)

    done = warm(folder, *command_of(out))
    assert done.returncode == 0, done.stderr
    after = trials()
    assert {number: after[number] for number in finished} == finished
    assert sum(state in DONE for state, _ in after.values()) == 9
    assert running < {attrs.get("retry_of") for state, attrs in after.values() if state in DONE}
    reported = {point["trial"] for point in report_of(out)["points"]}
    assert reported >= {number for number, (state, _) in finished.items() if state == TrialState.COMPLETE}
    table = pandas.read_csv(out / "pareto.csv")
    assert set(table.rung) == {"final"}
    assert all((out / path / "model.onnx").exists() for path in table.path)
