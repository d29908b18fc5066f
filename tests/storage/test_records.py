"""The record that a model's folder is complete."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.errors import RunDirectoryError
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Measurements, Window
from autocompress.evaluators.outcome_json import to_json
from autocompress.storage.records import RECORD, read_record

WINDOW = Window(baseline_ns=(2.0,), candidate_ns=(1.0,))

MEASURED = Measurement(
    accuracy=0.9, latency=Latency(windows=(WINDOW,), baseline_ms=2.0), size_bytes=10, params=1, macs=1
)

WRITTEN = to_json((MEASURED,))

EVIL = replace(MEASURED, latency=replace(MEASURED.latency, runtime="/home/them/evil.py:fast"))


@pytest.mark.parametrize("content", [None, "", WRITTEN[:40], to_json(Infeasible(reason="no", rung="build"))])
def test_where_there_is_none_there_is_none(content: str | None, tmp_path: Path) -> None:
    """Nor where it was not written to its end, or is of something else."""
    if content is not None:
        (tmp_path / RECORD).write_text(content)
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("measured", [(EVIL,), (MEASURED, EVIL)])
def test_code_that_was_not_named_is_not_gone_on_with(measured: Measurements, tmp_path: Path) -> None:
    """A runtime in a Python file is served only where the command line has it."""
    (tmp_path / RECORD).write_text(to_json(measured))
    with pytest.raises(RunDirectoryError, match=r"must be named on the command line.*evil\.py"):
        read_record(tmp_path, {"onnxruntime"})
    assert read_record(tmp_path, {"onnxruntime", "/home/them/evil.py:fast"}) == measured
    assert read_record(tmp_path) == measured


@pytest.mark.parametrize("content", ["[]", "{}", '{"kind": "measurement"}', WRITTEN.replace("windows", "w")])
def test_another_shape_is_told(content: str, tmp_path: Path) -> None:
    """It is an error of ours, and no other."""
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(RunDirectoryError, match="must be as autocompress writes it"):
        read_record(tmp_path)


@pytest.mark.parametrize("runtime", ["", "a b", "onnxruntime\n", 'x:"""', "../evil.so", "/evil\n.py"])
def test_a_runtime_s_name_is_one(runtime: str, tmp_path: Path) -> None:
    """It is put into programs and shown."""
    strange = replace(MEASURED, latency=replace(MEASURED.latency, runtime=runtime))
    (tmp_path / RECORD).write_text(to_json((strange,)))
    with pytest.raises(RunDirectoryError, match="must name a runtime such as"):
        read_record(tmp_path)
