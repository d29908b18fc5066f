"""The one place on disk that a study writes to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.errors import RunDirectoryError
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Measurements, Window
from autocompress.evaluators.outcome_json import to_json
from autocompress.storage.run_directory import RECORD, RunDirectory, check, read_record

IDENTITY = {"study": "digits", "runtime": "fake"}

WINDOW = Window(baseline_ns=(2.0,), candidate_ns=(1.0,))

MEASURED = Measurement(
    accuracy=0.9, latency=Latency(windows=(WINDOW,), baseline_ms=2.0), size_bytes=10, params=1, macs=1
)

WRITTEN = to_json((MEASURED,))

EVIL = replace(MEASURED, latency=replace(MEASURED.latency, runtime="/home/them/evil.py:fast"))

HOLD = """
import sys
from pathlib import Path
from autocompress.storage.run_directory import RunDirectory
held = RunDirectory(Path(sys.argv[1]), {"study": "digits", "runtime": "fake"})
print("held", flush=True)
sys.stdin.read()
"""


def contents(path: Path) -> dict[str, bytes]:
    """Return every file below a directory with its content."""
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@contextmanager
def held_elsewhere(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a run directory."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_directory_is_made_and_gone_on_with(tmp_path: Path) -> None:
    """The same study may come back to its directory, as often as it likes."""
    for _ in range(2):
        RunDirectory(tmp_path / "a" / "b", IDENTITY).close()
    assert (tmp_path / "a" / "b" / "study.json").exists()


@pytest.mark.parametrize("key", IDENTITY)
def test_another_study_is_refused(key: str, tmp_path: Path) -> None:
    """The message names what differs, both values and the way out; nothing is written."""
    RunDirectory(tmp_path, IDENTITY).close()
    before = contents(tmp_path)
    with pytest.raises(RunDirectoryError, match=f"{key} '{IDENTITY[key]}', this command asks for 'other'.*--out DIR"):
        RunDirectory(tmp_path, {**IDENTITY, key: "other"})
    assert contents(tmp_path) == before


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    """A directory with anything else in it is refused, and nothing is written there."""
    (tmp_path / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(RunDirectoryError, match="holds other files"):
        RunDirectory(tmp_path, IDENTITY)
    assert contents(tmp_path) == {"thesis.tex": b"irreplaceable"}


@pytest.mark.parametrize("inside", [False, True])
def test_a_file_in_the_way_is_refused(inside: bool, tmp_path: Path) -> None:
    """Neither a file nor a place below a file can be a run directory."""
    (tmp_path / "file").write_text("kept")
    path = tmp_path / "file" / "run" if inside else tmp_path / "file"
    with pytest.raises(RunDirectoryError, match="must be a directory that can be written"):
        RunDirectory(path, IDENTITY)
    assert contents(tmp_path) == {"file": b"kept"}


def test_a_place_that_cannot_be_written_is_refused() -> None:
    """Even the superuser cannot make a directory in /proc."""
    with pytest.raises(RunDirectoryError, match="must be a directory that can be written"):
        check(Path("/proc/autocompress"), IDENTITY)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    """A directory of somebody else is refused before anything is written."""
    tmp_path.chmod(0o500)
    with pytest.raises(RunDirectoryError, match="Permission denied"):
        check(tmp_path / "run", IDENTITY)


def test_checking_writes_nothing(tmp_path: Path) -> None:
    """`check` leaves no trace, neither where the directory is new nor where it exists."""
    check(tmp_path / "new", IDENTITY)
    check(tmp_path, IDENTITY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", [False, True])
def test_what_is_discarded_leaves_nothing_behind(other: bool, tmp_path: Path) -> None:
    """The folders that were made for it go too, except one in which another program put something."""
    made = RunDirectory(tmp_path / "runs" / "mine" / "digits", IDENTITY)
    if other:
        (tmp_path / "runs" / "notes.txt").write_text("mine")
    made.close()
    made.discard()
    assert [path.name for path in tmp_path.rglob("*")] == (["runs", "notes.txt"] if other else [])


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A directory that another process holds is refused unchanged, and free again once that process is dead."""
    path = tmp_path / "run"
    with held_elsewhere(path) as process:
        before = contents(path)
        with pytest.raises(RunDirectoryError, match="another one is working in"):
            RunDirectory(path, IDENTITY)
        assert contents(path) == before
        process.kill()
        process.wait()
        RunDirectory(path, IDENTITY).close()


@pytest.mark.parametrize("content", [None, "", WRITTEN[:40], to_json(Infeasible(reason="no", rung="build"))])
def test_an_incomplete_folder_has_no_record(content: str | None, tmp_path: Path) -> None:
    """A missing or torn record, or one of an infeasible candidate, counts as none."""
    if content is not None:
        (tmp_path / RECORD).write_text(content)
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("measured", [(EVIL,), (MEASURED, EVIL)])
def test_a_record_of_unnamed_code_is_refused(measured: Measurements, tmp_path: Path) -> None:
    """A runtime in a Python file is served only where the command line has it."""
    (tmp_path / RECORD).write_text(to_json(measured))
    with pytest.raises(RunDirectoryError, match=r"must be named on the command line.*evil\.py"):
        read_record(tmp_path, {"onnxruntime"})
    assert read_record(tmp_path, {"onnxruntime", "/home/them/evil.py:fast"}) == measured
    assert read_record(tmp_path) == measured


@pytest.mark.parametrize("content", ["[]", "{}", '{"kind": "measurement"}', WRITTEN.replace("windows", "w")])
def test_a_record_of_another_shape_is_refused(content: str, tmp_path: Path) -> None:
    """A record with other content raises a `RunDirectoryError`, and no other error."""
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(RunDirectoryError, match="must be as autocompress writes it"):
        read_record(tmp_path)


@pytest.mark.parametrize("runtime", ["", "a b", "onnxruntime\n", 'x:"""', "../evil.so", "/evil\n.py"])
def test_a_record_must_name_a_runtime(runtime: str, tmp_path: Path) -> None:
    """A runtime's name is put into programs and shown, so a record with any other text is refused."""
    strange = replace(MEASURED, latency=replace(MEASURED.latency, runtime=runtime))
    (tmp_path / RECORD).write_text(to_json((strange,)))
    with pytest.raises(RunDirectoryError, match="must name a runtime such as"):
        read_record(tmp_path)
