"""A study whose metric is in decibels, from the command to the card of its picked model."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]

STUDY = """
import math
from dataclasses import replace

import my_study
from autocompress.studies.task import top1

def metric(model, loader):
    return -20 * math.log10(1.03 - top1(model, loader))

def task():
    return replace(my_study.task(), metric=metric, metric_unit="dB", epochs=0.1, final_epochs=0.1)
"""

LINE = ("study.py", "--target-latency", "50ms", "--trials", 3, "--workers", 0, "--runtime", "fake", "--out", "run")


@pytest.fixture
def folder(folder: Path) -> Path:
    """Return a user's folder with that study."""
    (folder / "study.py").write_text(STUDY)
    return folder


def test_decibels_are_decibels_everywhere(folder: Path, warm: Command) -> None:
    """Terminal, JSON, Markdown and page tell the metric and its limit in dB, and nothing is a share of anything."""
    done = warm(folder, *LINE, "--min-accuracy", "-6dB")
    assert done.returncode in (0, 1), done.stderr
    report = json.loads((folder / "run" / "report.json").read_text())
    baseline = next(point for point in report["points"] if point["kind"] == "baseline")
    value = f"{baseline['accuracy']:.4g} dB"
    least = f"metric {baseline['accuracy'] - 6:.4g} dB"
    summary = (folder / "run" / "report.md").read_text()
    assert report["limits"]["unit"] == "dB"
    assert least in report["limits"]["text"]
    for text in (done.stdout, summary):
        assert value in text
        assert least in text
        assert not re.search(r"\.\d+ ?%|points|accuracy|1\.\d+× faster than", text)
    again = warm(folder, *LINE, "--min-accuracy", "-0.5%")
    assert again.returncode == 2
    assert "its unit, dB, such as -0.3dB; got one in %" in " ".join(again.stderr.split())


def test_a_metric_that_is_no_number_on_all_the_data_is_refused(folder: Path, warm: Command) -> None:
    """What the first batch does not tell, the unchanged network does: nothing is left behind then either."""
    nothing = 'float("nan") if len(list(loader)) > 1 else top1(model, loader)'
    metric = "-20 * math.log10(1.03 - top1(model, loader))"
    assert metric in STUDY
    (folder / "study.py").write_text(STUDY.replace(metric, nothing))
    done = warm(folder, *LINE)
    assert done.returncode == 2, done.stderr
    assert "must be a finite number; on the validation data it is nan" in " ".join(done.stderr.split())
    assert not (folder / "run").exists()


@pytest.mark.parametrize(("unit", "said"), [("%", "between 0 and 1"), ("decibels of it", "at most eight characters")])
def test_a_unit_that_does_not_fit_is_refused(unit: str, said: str, folder: Path, warm: Command) -> None:
    """Before anything is measured, with exit code 2 and nothing left behind."""
    (folder / "study.py").write_text(STUDY.replace('"dB"', repr(unit)))
    done = warm(folder, *LINE)
    assert done.returncode == 2, done.stderr
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (folder / "run").exists()
