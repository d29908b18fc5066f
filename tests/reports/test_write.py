"""What the user reads at the end of a run."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
from rich.console import Console

from autocompress.commands.output import as_json
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.pareto.front import ParetoFront, select
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import Model
from autocompress.profiles.profile import Profile
from autocompress.reports import write as files
from autocompress.reports.json_result import as_data
from autocompress.reports.matplotlib_figure import draw
from autocompress.reports.terminal_table import print_table
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.uniform import uniform
from autocompress.storage.run import open_run
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

Search = Callable[..., StudyStore]

PROBLEM = AnalyticEvaluator(3)
PROFILE = Profile.from_dict(PROBLEM.profile())
PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


def model(name: str, candidate: Candidate, role: str = "front") -> Model:
    """Return a model as the end of a run leaves it."""
    (measured,) = PROBLEM.evaluate(Request(folder="", candidate=candidate, epochs=0, test=True))
    large = replace(measured, size_bytes=measured.size_bytes * 1000)
    return Model(id=name, candidate=candidate, measurements=(large,), role=role, path=f"models/{name}")


def front_for(target_ms: float) -> ParetoFront:
    """Return the front of all candidates of the problem, with two reference baselines."""
    every = [model(f"{i:05d}", candidate) for i, (candidate, _) in enumerate(PROBLEM.everything())]
    chosen = [every[i] for i in select([m.measurement for m in every], Limits(target_ms))][:8]
    references = [
        model("00001", uniform(PROBLEM.space, 0.0, quantized=True), "uniform int8"),
        model("00003", uniform(PROBLEM.space, 0.375, quantized=True), "uniform int8 −38%"),
    ]
    front = ParetoFront(
        limits=Limits(target_ms),
        baseline=model("baseline", Candidate(), "baseline"),
        models=tuple(chosen),
        references=tuple(references),
        floor_ms=PROFILE.floor_ms,
    )
    return front if front.meets_target else replace(front, reasons=PROFILE.reasons())


def shown(front: ParetoFront, where: str = "runs/digits") -> str:
    """Return what a terminal of 80 columns shows."""
    output = io.StringIO()
    print_table(front, where, Console(file=output, width=80))
    return output.getvalue()


@pytest.mark.parametrize("target_ms", [9.0, 4.0, 0.5])
def test_the_table_fits_eighty_columns(target_ms: float) -> None:
    """No line is wider, no cell is cut, and every model has its row."""
    front = front_for(target_ms)
    text = shown(front)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    rows = [line[2:].split("  ")[0] for line in text.splitlines()]
    for m in (front.baseline, *front.references):
        assert m.role in rows
    for m in front.models:
        assert any(row.startswith(m.id) for row in rows)


def served_by(front: ParetoFront, name: str) -> ParetoFront:
    """Return a front as another runtime would have it."""

    def there(model: Model) -> Model:
        latency = replace(model.measurement.latency, runtime=name)
        return replace(model, measurements=(replace(model.measurement, latency=latency),))

    models, references = (tuple(map(there, each)) for each in (front.models, front.references))
    return replace(front, baseline=there(front.baseline), models=models, references=references)


@pytest.mark.parametrize("width", [120, 80, 60, 40])
@pytest.mark.parametrize("several", [False, True], ids=["one runtime", "several"])
def test_the_table_fits_its_terminal(width: int, several: bool) -> None:
    """What there is no room for is left out, never cut; the name, latency, accuracy and verdict always stay."""
    front = front_for(4.0)
    if several:
        alone = served_by(front, "onnxruntime"), served_by(front, "/home/me/serving/mine.py:with-a-long-name")
        front = replace(alone[1], portfolio=alone)
    output = io.StringIO()
    where = "runs/" + "a-long-name-of-a-study-" * 5
    print_table(front, where, Console(file=output, width=width))
    *lines, file, every = output.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "…" not in output.getvalue()
    assert {"model", "ms", "valid", "meets"} <= set(lines[0].split())
    assert front.recommended is not None
    assert file == f"  Files: {where}/{front.recommended.path}/model.onnx"  # to be copied, however long
    assert every == f"  All models: {where}/pareto.csv"


def test_the_outcome_as_data_tells_what_the_table_does() -> None:
    """Models are those of pareto.csv, the recommended one and whether anything meets the target are named."""
    front = front_for(4.0)
    data = as_data(front, "runs/digits")
    assert data["meets_target"] is True
    assert data["recommended"] == front.recommended.id if front.recommended else None
    rows = front.to_pandas().to_dict("records")
    assert [data["baseline"], *data["models"]] == rows
    assert [row["id"] for row in data["obvious"]] == [m.id for m in front.references]
    assert json.loads(as_json(data))["target_ms"] == 4.0


def test_the_recommended_model_is_marked() -> None:
    """One arrow stands before the recommended model; the conclusion says what that gains and where it is."""
    front = front_for(4.0)
    text = shown(front)
    best = front.recommended
    assert best is not None
    table, conclusion = text.split("\n\n", 1)
    assert [line for line in table.splitlines() if line.startswith("→")] == [
        line for line in table.splitlines() if best.id in line
    ]
    assert conclusion.startswith(f"→ {best.id} meets 4 ms: ")
    assert "× faster" in conclusion
    assert f"runs/digits/{best.path}/model.onnx" in " ".join(conclusion.split())


SEVERAL = Limits(4.0, min_accuracy=0.6, max_size_bytes=2e8, max_memory_bytes=3e8, max_energy_mj=20.0)


def test_several_limits_are_named_with_what_the_best_model_needs() -> None:
    """The conclusion names every limit, and a line tells the best model's value of each, all within 80 columns."""
    front = limited(front_for(4.0), SEVERAL)
    text = shown(front)
    said = " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80
    best = front.recommended
    assert best is not None
    assert f"→ {best.id} meets {SEVERAL}: " in said
    assert f"Limits: {'; '.join(SEVERAL.verdicts(best.measurement).values())}." in said
    for limit in ("at most 4 ms", "at most 200 MB", "at most 300 MB", "at most 20 mJ", "at least 60.00%"):
        assert limit in said
    rows = [line for line in text.split("\n\n")[0].splitlines()[1:] if line[2:7].isdigit()]
    assert [row.split()[-1] == "yes" for row in rows] == [SEVERAL.satisfied_by(m.measurement) for m in front.models]


def test_what_misses_one_of_several_limits_misses() -> None:
    """Where nothing meets all, the nearest is the one whose largest excess is least, and its reasons are given."""
    strict = replace(SEVERAL, max_size_bytes=1e6)
    front = limited(front_for(4.0), strict)
    best = front.recommended
    assert best is not None
    assert not front.meets_target
    assert strict.largest(best.measurement) == min(strict.largest(m.measurement) for m in front.models)
    front = replace(front, reasons=strict.reasons(best.measurement, [m.measurement for m in front.models]))
    said = " ".join(shown(front).split())
    assert f"Nothing meets {strict}. → {best.id} is the nearest" in said
    assert "It misses: size " in said
    assert " over 1 MB; the best of all that were measured: " in said


def limited(front: ParetoFront, limits: Limits) -> ParetoFront:
    """Return a front of which memory and energy are known, under limits."""
    models = tuple(
        replace(
            m,
            measurements=(replace(m.measurement, memory_bytes=m.measurement.size_bytes + 50_000_000, energy_mj=12.5),),
        )
        for m in front.models
    )
    return replace(front, limits=limits, models=models)


def test_where_nothing_meets_the_target_the_reasons_are_given() -> None:
    """The nearest model, the floor and the dearest layers are named."""
    front = front_for(0.5)
    text = " ".join(shown(front).split())
    best = front.recommended
    assert best is not None
    assert f"Nothing meets 0.5 ms. → {best.id} is the nearest" in text
    assert f"The floor, measured with everything at its strongest: {PROFILE.floor_ms:.2f} ms." in text
    dearest = max(PROFILE.costs.layer_ms, key=lambda name: PROFILE.costs.layer_ms[name])
    assert f"What costs most in the baseline: {dearest} " in text


def test_without_any_model_the_reasons_are_given() -> None:
    """An empty front points to the trials."""
    front = replace(front_for(0.5), models=(), references=())
    assert "No candidate was measured completely; trials.csv says why." in shown(front)


@pytest.mark.parametrize("target_ms", [4.0, 0.5])
def test_the_plot_is_a_picture(target_ms: float) -> None:
    """A PNG or an SVG is written, also where the front is empty and no trial was measured."""
    front = front_for(target_ms)
    for shown_front in (front, replace(front, models=(), references=())):
        for kind, begins in (("png", PNG), ("svg", SVG)):
            picture = io.BytesIO()
            draw(shown_front, [], picture, kind=kind)
            assert picture.getvalue().startswith(begins)


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
    assert trials["role"].tolist()[:2] == ["baseline", "uniform int8"]


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
