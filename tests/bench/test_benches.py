"""The smoke run of all benchmarks, with a Python that only says what it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHES = Path(__file__).parents[2] / "scripts" / "benches"

PYTHON = """#!/bin/sh
echo "given $(basename $1) $2"
case $1 in *ladder.py) exit 3; esac
"""


@pytest.fixture
def smoke(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run all benchmarks; one of them fails."""
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(PYTHON)
    python.chmod(0o755)
    return run(VIRTUAL_ENV=str(tmp_path))


def run(*names: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the script."""
    return subprocess.run(
        [sys.executable, BENCHES, *names], env={**os.environ, **environment}, capture_output=True, text=True
    )


def test_all_are_run_and_what_fails_is_named_with_its_log(smoke: subprocess.CompletedProcess[str]) -> None:
    """Each file of `bench/` is run, also after one that failed, whose log is printed and which fails the whole."""
    lines = smoke.stdout.splitlines()
    names = sorted(path.stem for path in (BENCHES.parents[1] / "bench").glob("*.py"))
    assert sorted(line.split()[0] for line in lines if line.endswith("s of a CPU")) == names
    assert "ladder failed with exit code 3. Its log:\ngiven ladder.py --quick\n" in smoke.stdout
    assert lines[-1].endswith("failed: ladder")
    assert smoke.returncode == 1
    assert "given search.py" not in smoke.stdout  # a log is for what failed


def test_an_unknown_benchmark_is_refused() -> None:
    """A name that is no file of `bench/` is an error that says so."""
    done = run("nothing")
    assert done.returncode == 1
    assert "nothing is none" in done.stderr
