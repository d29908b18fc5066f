"""What the commands say of a run whose metric is no share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autocompress import cli
from autocompress.storage.run import open_run

MadeRun = Callable[..., Path]

SHARES = re.compile(r"\.\d+ ?%|points|\d× faster, 0|accurac")
"""What is said of shares alone."""


@pytest.fixture
def runs(made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder, which is the working one, with a run in decibels and one whose unit nobody has said."""
    made_run(tmp_path / "db", scale=32.0, unit="dB")
    made_run(tmp_path / "plain", scale=-1300.0, unit=None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*words: str, code: int = 0) -> str:
    """Return what a command prints."""
    done = CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, words, catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def test_a_picked_model_is_told_in_its_unit(runs: Path) -> None:
    """The command, its JSON and the model card have the metric in decibels, and a limit may be in them."""
    text = said("pick", "db", "--min-accuracy", "-3dB", "-o", "served", "--no-check")
    base = open_run("db").front().baseline.measurement.accuracy
    assert re.search(r"\d dB on the validation data", text)
    assert f"metric {base - 3:.4g} dB" in text
    card = (runs / "served" / "README.md").read_text()
    assert f"{base:.4g} dB" in card
    assert re.search(r"[+-][\d.]+ dB in the metric on the validation data", card)
    assert "validation metric" in card
    for each in (text, card):
        assert not SHARES.search(each.replace("--min-accuracy", ""))
    assert json.loads(said("pick", "db", "-o", "again", "--no-check", "--json"))["metric_unit"] == "dB"


@pytest.mark.parametrize(("run", "words", "unit"), [("db", "-0.5%", "its unit, dB"), ("plain", "-0.5%", "not known")])
def test_a_limit_in_another_unit_is_refused(run: str, words: str, unit: str, runs: Path) -> None:
    """With exit code 2, the unit that the metric has and the one that came; nothing is copied."""
    text = said("pick", run, "--min-accuracy", words, "-o", "served", code=2)
    assert unit in " ".join(text.split())
    assert "got one in %" in " ".join(text.split())
    assert not (runs / "served").exists()


def test_a_report_that_is_written_again_keeps_the_unit(runs: Path) -> None:
    """``report`` reads from the run what its task had said, else what was measured tells it."""
    for run, unit in (("db", "dB"), ("plain", "")):
        said("report", run)
        assert json.loads((runs / run / "report.json").read_text())["limits"]["unit"] == unit
        assert not SHARES.search((runs / run / "report.md").read_text())


def test_two_runs_of_other_units_are_compared(runs: Path) -> None:
    """Each side has its own unit, and that they differ is reported."""
    text = said("compare", "db", "plain")
    assert re.search(r"\d dB", text)
    assert "The metric's unit differs: dB in A, none in B." in " ".join(text.split())
    assert not SHARES.search(text)


def test_a_run_of_before_is_read_as_it_was(made_run: MadeRun, tmp_path: Path) -> None:
    """A run directory that says nothing of a unit has shares where all its values lie between 0 and 1."""
    folder = made_run(tmp_path / "old")
    study = json.loads((folder / "study.json").read_text())
    del study["asked"]["limits"]["unit"]
    (folder / "study.json").write_text(json.dumps(study))
    assert open_run(folder).front().unit == "%"
