"""What is checked before a study is loaded: each mistake has its message, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.errors import RunDirectoryError, StorageError, UsageError
from autocompress.search import preflight
from autocompress.search.options import Options
from autocompress.search.preflight import check_options, identity_of, in_unit
from autocompress.storage.run_directory import RunDirectory
from autocompress.studies.task import Task

MakeTask = Callable[..., Task]


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run directory that does not exist, in an empty working directory."""
    desk = tmp_path / "desk"
    desk.mkdir()
    monkeypatch.chdir(desk)
    return desk / "run"


def options(out: Path, **more: object) -> Options:
    """Return options for trials in this process."""
    return Options(**{"target_ms": 5.0, "out": out, "runtimes": ("fake",), "workers": 0, **more})  # type: ignore[arg-type]


def test_sound_options_are_returned_with_their_runtimes(out: Path) -> None:
    """The runtimes are loaded, the identity has what must stay the same, and nothing is written."""
    checked = check_options("small", options(out, threads=2, batch=8))
    assert [server.name for server in checked.servers] == ["fake"]
    assert checked.options == options(out, threads=2, batch=8)
    assert checked.identity == {
        "study": "small",
        "runtime": "fake",
        "threads": "2",
        "batch": "8",
        "percentile": "50",
        "device": "this machine",
    }
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"runtimes": ("fak",)}, r"--runtime must be one of: onnxruntime.*; got 'fak'"),
        ({"runtimes": ("pytorch",), "compact": True}, r"--compact packs ONNX files; those of pytorch end in"),
        ({"artifacts": "nowhere://bucket"}, r"--artifacts must be the URL of a place.*; got 'nowhere://bucket'"),
        ({"artifacts": "memory://bucket", "workers": 2}, r"each process has for itself\. Give --workers 0"),
        ({"tensorboard": "taken"}, r"--tensorboard must be a folder.*'taken' is a file"),
        ({"ray_address": "nohost", "workers": 2}, r"--ray-address must be auto, HOST:PORT or ray://HOST:PORT"),
        ({"ray_address": "127.0.0.1:1", "workers": 2}, r"--ray-address .*127\.0\.0\.1:1"),
        ({"storage": "sqlite:///missing/folder/study.db"}, r"--storage"),
    ],
)
def test_what_cannot_be_done_is_refused(more: dict[str, object], said: str, out: Path) -> None:
    """The message names the option and the value that came; nothing is left behind."""
    (out.parent / "taken").touch()
    with pytest.raises((UsageError, StorageError), match=said):
        check_options("small", options(out, **more))
    assert [path.name for path in out.parent.iterdir()] == ["taken"]


def test_a_directory_with_other_files_is_refused(out: Path) -> None:
    """The user's files are safe: the message asks for another directory."""
    out.mkdir()
    (out / "thesis.tex").touch()
    with pytest.raises(RunDirectoryError, match=r"'.*run' holds other files\. Give another one with --out DIR"):
        check_options("small", options(out))
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("more", [{"threads": 2}, {"percentile": 95.0}, {"batch": 4}, {"compact": True}])
def test_another_runs_directory_is_refused(more: dict[str, object], out: Path) -> None:
    """A run is resumed with the settings that its measurements depend on; nothing in its directory changes."""
    RunDirectory(out, check_options("small", options(out)).identity).close()
    check_options("small", options(out, trials=99, seed=3))  # these may change
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match="--out"):
        check_options("small", options(out, **more))
    with pytest.raises(RunDirectoryError, match="--out"):
        check_options("other", options(out))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_artifacts_are_made_absolute(out: Path) -> None:
    """Workers in other directories find the same place, and the run is bound to it."""
    (out.parent / "store").mkdir()
    checked = check_options("small", options(out, artifacts="store"))
    assert checked.options.artifacts == f"file://{out.parent}/store"
    assert checked.identity["artifacts"] == checked.options.artifacts
    assert [path for path in out.parent.rglob("*") if path.is_file()] == []


def test_a_memory_limit_needs_a_peak(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not report a peak memory the limit is refused; without it the run may start."""
    monkeypatch.setattr(preflight, "peak_so_far", lambda: None)
    with pytest.raises(UsageError, match=r"--max-memory needs a system .* leave it out"):
        check_options("small", options(out, max_memory_bytes=1e8))
    check_options("small", options(out))


def test_an_energy_limit_needs_a_counter(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has no energy counter the limit is refused."""
    from autocompress.evaluators.meters import energy

    def none() -> None:
        raise OSError("no counter")

    monkeypatch.setattr(energy, "COUNTERS", (("cpu", none), ("gpu", none)))
    with pytest.raises(UsageError, match=r"--max-energy needs a counter .*: leave --max-energy out"):
        check_options("small", options(out, max_energy_mj=5.0))


def test_compact_runs_are_of_their_own(out: Path) -> None:
    """Sizes of compact files cannot be compared to others, so they are part of the identity."""
    servers = check_options("small", options(out)).servers
    plain, compact = (identity_of("small", servers, options(out, compact=each)) for each in (False, True))
    assert compact == {**plain, "sizes": "of compact files"}


def test_options_take_the_metrics_unit(out: Path, make_task: MakeTask) -> None:
    """The task's unit counts; without one a value that was measured outside of 0 to 1 means a plain number."""
    decibels = options(out, min_change=-0.3, unit="dB")
    assert in_unit(decibels, make_task(metric=lambda model, loader: 30.0, metric_unit="dB"), {}).unit == "dB"
    assert in_unit(options(out), make_task(metric=lambda m, x: 30.0), {"metric": {"value": 30.0}}).unit == ""
    with pytest.raises(UsageError, match=r"--min-accuracy .* its unit, px, such as -0\.3px; got one in dB"):
        in_unit(decibels, make_task(metric=lambda model, loader: 30.0, metric_unit="px"), {})
