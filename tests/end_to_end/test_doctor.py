"""The command that tells what works here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., subprocess.CompletedProcess[str]]

FAULTY = Path(__file__).parents[1] / "evaluators" / "faulty.py"


def test_doctor_tells_what_works_and_what_does_not(tmp_path: Path, command: Command) -> None:
    """A runtime that crashes is a line like the one that works; the table fits the terminal."""
    done = command(tmp_path, "doctor", "--runtime", "onnxruntime", "--runtime", f"{FAULTY}:segfault")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    header, works, crashed, *rest = done.stdout.splitlines()
    assert max(map(len, (header, works, crashed))) <= 80
    assert works.split()[0] == "onnxruntime"
    assert works.split()[2] == "works"
    assert crashed.split()[0] == "faulty.py:segfault"
    assert "fails" in crashed.split()
    assert any("fails at INT8: The runtime crashed with SIGSEGV" in line for line in rest)
    assert [line.partition(":")[0] for line in rest[-3:]] == ["machine", "noise", "energy"]


def test_doctor_for_a_report(tmp_path: Path, command: Command) -> None:
    """JSON has all of it; exit code 1 where nothing works."""
    done = command(tmp_path, "doctor", "--runtime", "onnxruntime:cuda", "--json")
    data = json.loads(done.stdout)
    assert done.returncode == (0 if data["checks"][0]["state"] == "works" else 1)
    assert {"cpu", "cores", "load", "governor"} <= set(data["machine"])


def test_unknown_runtime_is_refused(tmp_path: Path, command: Command) -> None:
    """Before anything is tried."""
    done = command(tmp_path, "doctor", "--runtime", "tpu")
    assert done.returncode == 2
    assert "--runtime must be one of: onnxruntime" in done.stderr
