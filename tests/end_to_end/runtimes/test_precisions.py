"""The same network on a machine where INT8 is slower than float, and on one where nothing else is fast enough."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

from autocompress.evaluators.runtimes.fake import ENVIRONMENT

NARROW = """
import torch
from my_study import Net, trained

def task():
    torch.manual_seed(0)
    return trained(Net(32, 32, 32))
"""

MACHINES = {"float": "2000,10,40", "int8": "2000,100,5"}
"""Nanoseconds of a layer, of a weight in float and of one in INT8."""


@pytest.mark.parametrize("best", MACHINES)
def test_the_precision_that_pays_is_found(
    best: str, folder: Path, warm: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that is found to meet the target is in float on the one machine, and in INT8 on the other."""
    monkeypatch.setenv(ENVIRONMENT, MACHINES[best])
    (folder / "narrow.py").write_text(NARROW)
    line = ("narrow.py", "--target-latency", "100us", "--runtime", "fake", "--workers", 0, "--trials", 9)
    done = warm(folder, *line, "--epochs", 0.2, "--final-epochs", 0.2, "--out", "run")
    assert done.returncode == 0, done.stderr
    trials = pandas.read_csv(folder / "run" / "trials.csv")
    met = trials[(trials.state == "complete") & (trials.latency_ms <= 0.1)]
    assert len(met) >= 2
    for candidate in map(json.loads, met.candidate):
        integers = set(candidate.get("bits", {}))
        assert {"body.2", "last.1"} <= integers if best == "int8" else not integers
