"""A study is looked at without being run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autocompress.cli import app
from autocompress.commands.output import OK, USAGE

STUDY = """
import torch
from autocompress import Task
from torch import nn

def task():
    print("loading")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 3))
    x, y = torch.randn(33, 1, 8, 8), torch.arange(33) % {classes}
    data = [*zip(x.split(8), y.split(8))]
    return Task(net, x[:1], data, data)
"""


def asked(folder: Path, *words: str, classes: int = 3) -> tuple[int, str]:
    """Return the exit code of the command and what it printed, after checking that it left nothing behind."""
    (folder / "my_study.py").write_text(STUDY.format(classes=classes))
    done = CliRunner().invoke(app, ["check-study", "my_study.py", *words], prog_name="autocompress")
    assert [path.name for path in folder.iterdir() if path.name != "__pycache__"] == ["my_study.py"]
    return done.exit_code, done.stdout


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sound_study_is_told_part_by_part(desk: Path) -> None:
    """Its layers, its loaders with their labels, its loss, metric and distance; nothing is written."""
    code, text = asked(desk)
    assert code == OK
    for said in ("2 layers", "5 batches, 33 examples, labels int64 from 0 to 2", "cross-entropy, the default"):
        assert said in text
    assert "share of correct answers, the default, in per cent" in text
    assert "softmax over axis 1" in text
    assert "Nothing must be fixed" in text


def test_what_must_be_fixed_is_listed(desk: Path) -> None:
    """Exit code 2, with the rule, what came and the way out."""
    code, text = asked(desk, classes=5)
    assert code == USAGE
    assert "To fix:\n 1. The default metric counts integer labels" in text or "To fix:\n 1. The default loss" in text
    assert "labels go from 0 to 4, and the outputs have 3 classes. Write -100" in text


def test_a_program_reads_it_too(desk: Path) -> None:
    """The same as JSON."""
    code, text = asked(desk, "--json")
    data = json.loads(text)
    assert code == OK
    assert data["errors"] == []
    assert data["layers"] == ["0", "3"]
    assert data["loaders"]["train"] == {
        "batches": 5,
        "looked_at": 5,
        "examples": 33,
        "smallest": 1,
        "labels": "int64 from 0 to 2",
    }
    assert data["metric_unit"] == "%"
    assert data["macs"] == 36 * 16 * 9 + 576 * 3


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("", "in per cent while all its values lie between 0 and 1; metric_unit= sets the unit"),
        (', metric_unit="dB"', ", in dB"),
        (', metric_unit=""', ", a plain number"),
    ],
)
def test_a_metrics_unit_is_told(unit: str, said: str, desk: Path) -> None:
    """How the metric will be written is known before a run, and how to say it otherwise."""
    study = STUDY.replace(
        "Task(net, x[:1], data, data)", f"Task(net, x[:1], data, data, metric=lambda m, l: 0.5{unit})"
    )
    (desk / "unit_study.py").write_text(study.format(classes=3))
    done = CliRunner().invoke(app, ["check-study", "unit_study.py"], prog_name="autocompress")
    assert said in " ".join(done.stdout.split())
