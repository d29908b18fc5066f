"""The command that tells what works here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Command = Callable[..., subprocess.CompletedProcess[str]]

FAULTY = Path(__file__).parents[2] / "evaluators" / "faulty.py"


def test_doctor_tells_what_works_and_what_does_not(tmp_path: Path, command: Command) -> None:
    """A runtime that crashes is an entry like the one that works, and the machine is described; stdout is JSON."""
    done = command(tmp_path, "doctor", "--runtime", "onnxruntime", "--runtime", f"{FAULTY}:segfault", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    data = json.loads(done.stdout)
    works, crashes = data["checks"]
    assert (works["runtime"], works["state"], works["reason"]) == ("onnxruntime", "works", "")
    assert (crashes["runtime"], crashes["state"]) == (f"{FAULTY}:segfault", "fails")
    assert "fails at INT8: The runtime crashed with SIGSEGV" in crashes["reason"]
    assert data["noise"]["runtime"] == "onnxruntime"
    assert {"cpu", "cores", "load", "governor"} <= set(data["machine"])
    assert set(data["energy"]) <= {"cpu", "gpu"}


def test_unknown_runtime_is_refused(tmp_path: Path, command: Command) -> None:
    """Before anything is tried."""
    done = command(tmp_path, "doctor", "--runtime", "tpu")
    assert done.returncode == 2
    assert "--runtime must be one of: onnxruntime" in done.stderr
