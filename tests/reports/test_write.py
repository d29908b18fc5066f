"""What the user reads at the end of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas

from autocompress.pareto.limits import Limits
from autocompress.reports import write as files
from autocompress.storage.run import open_run
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

from .conftest import PROBLEM, PROFILE, front_for

Search = Callable[..., StudyStore]


PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


def test_files_are_written_and_stale_models_deleted(search: Search, tmp_path: Path) -> None:
    """The tables hold every model and every trial; folders of models with a final evaluation stay, others go."""
    store = search(PROBLEM, trials=30, target_ms=3.0)
    rundir = RunDirectory(tmp_path / "report", {"study": "report"})
    front = front_for(4.0)
    models = (*front.models, *front.references)
    kept = [m.path for m in models]
    for path in (*kept, "models/stale", "baseline"):
        (rundir.path / path).mkdir(parents=True, exist_ok=True)
    files.write(rundir, front, models, store, PROFILE, state="finished")
    rundir.close()
    assert {f"models/{folder.name}" for folder in rundir.models.iterdir()} == set(kept)
    assert (rundir.path / "baseline").is_dir()
    assert (rundir.path / "pareto.png").read_bytes().startswith(PNG)
    assert (rundir.path / "pareto.svg").read_bytes().startswith(SVG)
    told = json.loads((rundir.path / "report.json").read_text())
    assert (told["state"], told["study"]["name"]) == ("finished", "report")
    assert len(told["points"]) >= 30
    assert (rundir.path / "report.html").read_text().startswith("<!doctype html>")
    assert (rundir.path / "report.md").read_text().startswith("## report: 4 ms")
    table = pandas.read_csv(rundir.path / "pareto.csv", dtype={"id": str})
    assert table["id"].tolist() == ["baseline", *(m.id for m in front.models)]
    trials = pandas.read_csv(rundir.path / "trials.csv", keep_default_na=False)
    assert trials["trial"].tolist() == list(range(30))
    cut = trials[trials["state"] == "pruned"]
    assert len(cut) > 0
    assert cut["reason"].str.contains("is over the target of 3 ms").all()
    assert trials["role"][0] == "baseline"
    assert "uniform int8" in set(trials["role"])


def test_a_report_is_written_while_a_run_goes_on(search: Search, tmp_path: Path) -> None:
    """What a driver does meanwhile may write the report of what was found until then, which says so."""
    seen = []

    def meanwhile() -> None:
        run = open_run(tmp_path / "run")
        if run.models:
            front = run.front(Limits(3.0))
            files.write_report(run.path, front, run.trials, PROFILE, state="running", quick=True)
            seen.append(json.loads((run.path / "report.json").read_text()))

    search(PROBLEM, trials=12, target_ms=3.0, meanwhile=meanwhile)
    assert [told["search"]["trials"] for told in seen] == sorted(told["search"]["trials"] for told in seen)
    assert len(seen) > 3
    assert seen[0]["state"] == "running"
    assert "The run has not ended" in seen[0]["warnings"][0]


def test_a_run_is_written_anew_while_another_process_holds_it(search: Search, tmp_path: Path) -> None:
    """A directory that is held is of a running run, one that is not of a run that was interrupted."""
    search(PROBLEM, trials=12, target_ms=3.0)
    rundir = tmp_path / "run"
    run = open_run(rundir)
    files.write_again(run, run.front(Limits(3.0)))
    assert json.loads((rundir / "report.json").read_text())["state"] == "running"
    copy = tmp_path / "copy"
    shutil.copytree(rundir, copy)
    run = open_run(copy)
    files.write_again(run, run.front(Limits(3.0)))
    assert json.loads((copy / "report.json").read_text())["state"] == "interrupted"
