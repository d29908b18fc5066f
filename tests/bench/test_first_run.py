"""The benchmark of the first run reads the stages and the front's noise from what a run leaves behind."""

import math
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from autocompress.storage.run import Run, open_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a finished run of an earlier version."""
    with tarfile.open(ROOT / "tests" / "end_to_end" / "old_runs" / "finished.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return open_run(tmp_path / "finished")


def test_stages_follow_each_other(bench: dict[str, ModuleType], run: Run) -> None:
    """The trials' times give the begin and the end of the search, and the first model that counts in between."""
    stages = dict(bench["first_run"].stages_of(run))
    assert list(stages) == ["first trial begun", "first trial over", "search over", "first point of the front"]
    assert stages["first trial begun"] < stages["first trial over"] < stages["search over"]
    assert stages["first trial over"] < stages["first point of the front"] <= stages["search over"]


def test_noise_is_that_of_images_and_latencies(bench: dict[str, ModuleType], run: Run) -> None:
    """A front's hypervolume varies a little with what was drawn; that of no model is not known."""
    front = run.front()
    models, baseline = [m.measurement for m in front.models], front.baseline.measurement
    noise = bench["first_run"].noise(models, baseline, front.target_ms)
    assert 0 < noise < 0.2
    assert math.isnan(bench["first_run"].noise([], baseline, front.target_ms))
