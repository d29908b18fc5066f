"""A study whose outputs are no class for each example ends in a front, and learns from its teacher as fits them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., subprocess.CompletedProcess[str]]

TOKENS = Path(__file__).parents[3] / "bench" / "outputs" / "tokens.py"


def test_a_classifier_of_tokens_ends_in_a_front(folder: Path, warm: Command) -> None:
    """Its classes are found on the last axis, beside padding, nothing fails, and the report says so."""
    line = (TOKENS, "--target-latency", "50ms", "--runtime", "fake", "--trials", 2, "--workers", 0)
    done = warm(folder, *line, "--epochs", 0.2, "--final-epochs", 0.2, "--out", "run", "--quiet")
    assert done.returncode == 0, done.stderr
    told = json.loads((folder / "run" / "report.json").read_text())
    assert told["network"]["distance"].startswith("softmax over axis 2, since")
    assert told["headline"]["meets"]
    assert "failed" not in {each["end"] for each in told["search"]["ends"]}
