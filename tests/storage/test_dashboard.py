"""optuna-dashboard shows a study, wherever that is kept."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.storage.backends import METRICS
from autocompress.storage.study_store import StudyStore

pytest.importorskip("optuna_dashboard")

Search = Callable[..., StudyStore]
PATIENCE_S = 120.0


def free_port() -> int:
    """Return a port that nobody listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def dashboard(storage: str) -> Iterator[Callable[[str], Any]]:
    """Start the dashboard as a user would; yield what fetches JSON from it."""
    port = free_port()
    program = Path(sys.executable).with_name("optuna-dashboard")
    command = [str(program), storage, "--host", "127.0.0.1", "--port", str(port), "--server", "wsgiref"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def fetch(path: str) -> Any:
        ends = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE_S) as answer:
                    return json.load(answer)
            except OSError:
                if process.poll() is not None or time.monotonic() > ends:
                    raise
                time.sleep(0.1)

    try:
        yield fetch
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Return where a study is kept; None for the run directory."""
    if request.param == "postgresql":
        found: str = request.getfixturevalue("server").database()
        return found
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else None


def test_the_dashboard_shows_the_trials(
    url: str | None, search: Search, small: AnalyticEvaluator, tmp_path: Path
) -> None:
    """It finds the study by its name, its objectives by theirs, and each finished trial with its values."""
    store = search(small, trials=12, target_ms=3.0, url=url)
    before = (tmp_path / "run" / "study.journal").read_bytes() if url is None else b""
    with dashboard(url or str(tmp_path / "run" / "study.journal")) as fetch:
        (summary,) = fetch("/api/studies")["study_summaries"]
        study = fetch(f"/api/studies/{summary['study_id']}")
    assert summary["study_name"] == "run"
    assert summary["directions"] == ["maximize", "minimize", "minimize"]
    assert study["objective_names"] == list(METRICS)
    shown = {trial["number"]: trial["values"] for trial in study["trials"] if trial["state"] == "Complete"}
    models = {int(t.number): t.values for t in store.study.trials if t.values}
    assert shown == models
    assert url or (tmp_path / "run" / "study.journal").read_bytes() == before
