"""Measuring any model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from autocompress.errors import InfeasibleError, UsageError
from autocompress.evaluators.meters.latency import Plan
from autocompress.evaluators.parity import compare
from autocompress.evaluators.standalone.measure_file import Conditions, measure_file
from autocompress.evaluators.standalone.model_file import read
from autocompress.evaluators.standalone.model_inputs import Input, arrays, parse_input, settle

from ..models import linear

FAULTY = str(Path(__file__).parents[1] / "faulty.py")
SHORT = Plan(min_windows=2, max_windows=2, gap_s=0.0, min_runs=10, min_window_s=0.02, tolerance=1.0)
QUICK = Conditions(plan=SHORT, timeout_s=60.0)


@pytest.fixture
def files(tmp_path: Path) -> Mapping[str, Path]:
    """Return files by name: a float model, the same in INT8, one for batches of 2, one for integers, no model."""
    made = {
        "float": linear(),
        "int8": linear(int8=True),
        "two": linear(rows=2),
        "ids": linear(dtype=TensorProto.INT64),
        "broken": b"no model",
    }
    for name, content in made.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
    return {name: tmp_path / f"{name}.onnx" for name in made}


def test_a_file_is_measured_against_itself(files: Mapping[str, Path]) -> None:
    """Without a reference the first row is the same model twice, and every number is there."""
    report = measure_file(files["float"], conditions=replace(QUICK, batch=3, percentile=90))
    (row,) = report.rows
    assert (row.runtime, report.reference_runtime, report.measured) == ("onnxruntime", "onnxruntime", True)
    assert [value.shape for value in report.inputs] == [(3, 4)]
    assert row.latency is not None
    assert 0.2 < row.latency.ratio < 5
    assert row.latency.percentile == 90
    assert row.serving is not None
    assert row.serving.macs == {32: 3 * 16}
    assert row.artefact == files["float"].read_bytes()
    assert row.parity is not None
    assert row.parity.difference == 0
    assert row.parity.agreement == 1
    assert report.calibration is not None


def test_ratios_are_to_the_reference(files: Mapping[str, Path]) -> None:
    """The fake runtime's latencies are known: 20 µs a layer, and 4 or 10 ns a weight."""
    report = measure_file(files["int8"], reference=files["float"], runtimes=["fake"], conditions=QUICK)
    (row,) = report.rows
    assert row.latency is not None
    assert row.latency.ratio == pytest.approx((20_000 + 16 * 4) / (20_000 + 16 * 10), rel=0.01)
    assert row.parity is not None
    assert row.parity.difference < 0.01


def test_one_runtime_that_fails_is_a_row(files: Mapping[str, Path]) -> None:
    """It says why, and the others are measured."""
    names = [f"{FAULTY}:segfault", "onnxruntime", f"{FAULTY}:nan"]
    crashed, served, wrong = measure_file(files["int8"], runtimes=names, conditions=QUICK).rows
    assert crashed.latency is None
    assert "SIGSEGV" in str(crashed.reason)
    assert served.latency is not None
    assert served.reason is None
    assert wrong.parity is not None
    assert np.isnan(wrong.parity.difference)


def test_nothing_that_serves_a_file_is_no_error(files: Mapping[str, Path]) -> None:
    """The report has the reason; of a reference it is an error, as there is nothing to compare with."""
    report = measure_file(files["int8"], runtimes=[f"{FAULTY}:segfault"], conditions=QUICK)
    assert not report.measured
    assert report.calibration is None
    with pytest.raises(InfeasibleError, match=r"reference .*int8.onnx cannot be served: .*SIGSEGV"):
        measure_file(files["float"], reference=files["int8"], runtimes=[f"{FAULTY}:segfault"], conditions=QUICK)


def test_weights_beside_a_file_are_part_of_it(tmp_path: Path) -> None:
    """A large ONNX model keeps them in a second file; what is measured is both."""
    path = tmp_path / "model.onnx"
    onnx.save(onnx.load_from_string(linear(width=64)), path, save_as_external_data=True, location="w", size_threshold=0)
    content = read(path).content
    assert len(content) > 64 * 64 * 4 > len(path.read_bytes())
    assert onnx.load_from_string(content).graph.initializer[0].raw_data
    (tmp_path / "w").unlink()
    with pytest.raises(UsageError, match="must be whole"):
        read(path)


def test_whole_numbers_are_fed_as_such(files: Mapping[str, Path]) -> None:
    """Zeros and ones, which are safe as indices; floats are normal; both are the same each time."""
    inputs = settle(read(files["ids"]).inputs, {}, batch=50)
    (ids,) = arrays(inputs, seed=0)
    assert ids.dtype == np.int64
    assert set(np.unique(ids)) == {0, 1}
    (floats,) = arrays([Input(name="x", shape=(1000,), dtype="float32")], seed=0)
    assert floats.dtype == np.float32
    assert abs(float(floats.std()) - 1) < 0.1
    np.testing.assert_array_equal(floats, arrays([Input(name="x", shape=(1000,), dtype="float32")], seed=0)[0])


@pytest.mark.parametrize(
    ("declared", "given", "batch", "settled"),
    [
        ([("x", (None, 3, None))], [], None, ["x 1×3×1 float32"]),
        ([("x", (None, 3, None))], ["x=2x3x8"], None, ["x 2×3×8 float32"]),
        ([("x", (None, 3, None)), ("y", (None,))], ["x=7x3x8"], 7, ["x 7×3×8 float32", "y 7 float32"]),
        ([], ["b=1x3", "a=2x5:int64"], None, ["b 1×3 float32", "a 2×5 int64"]),
    ],
)
def test_free_dimensions_are_settled(
    declared: list[tuple[str, tuple[int | None, ...]]], given: list[str], batch: int | None, settled: list[str]
) -> None:
    """By what the user says, by the batch, else with 1; a file that does not tell is fed in the order given."""
    inputs = [Input(name=name, shape=shape, dtype="float32") for name, shape in declared]
    shapes = {value.name: value for value in map(parse_input, given)}
    assert [str(value) for value in settle(inputs, shapes, batch)] == settled


MISTAKES = {
    "unknown ending": ("model.foo", {}, r"must end with one of .*\.onnx, .*; got 'model.foo'"),
    "no such file": ("nowhere.onnx", {}, r"file that can be read; 'nowhere.onnx': No such file"),
    "no model": ("broken.onnx", {}, r"ends with \.onnx must be whole; 'broken.onnx'"),
    "unknown input": ("float.onnx", {"shapes": "z=1x4"}, "name an input of the model: x; got z"),
    "another shape": ("float.onnx", {"shapes": "x=1x5"}, r"fit the model's own x \?×4 float32; got x 1×5"),
    "another type": ("float.onnx", {"shapes": "x=1x4:int64"}, r"fit the model's own x \?×4 float32; got x 1×4 int64"),
    "fixed batch": ("two.onnx", {"conditions": replace(QUICK, batch=3)}, "x has 2 there, got 3"),
    "unknown runtime": ("float.onnx", {"runtimes": ["tpu"]}, "one of: onnxruntime, .*'tpu'"),
    "runtime of other files": ("float.onnx", {"runtimes": ["litert"]}, r"end with \.tflite; got 'float.onnx'"),
    "other inputs": ("float.onnx", {"reference": Path("ids.onnx")}, r"--reference must take what .* x \?×4 int64"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told(files: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """The message gives the rule and the value that came, before anything is measured."""
    monkeypatch.chdir(files["float"].parent)
    name, options, message = MISTAKES[case]
    if "shapes" in options:
        options = {"shapes": {value.name: value for value in [parse_input(options["shapes"])]}}
    with pytest.raises(UsageError, match=message):
        measure_file(Path(name), **options)


@pytest.mark.parametrize("text", ["x", "x=", "=1x2", "x=1xx2", "x=0x2", "x=1x2:", "x=1x2:float31"])
def test_an_input_that_cannot_be_read_is_refused(text: str) -> None:
    """With an example of one that can."""
    with pytest.raises(UsageError, match="--input"):
        parse_input(text)


@pytest.mark.parametrize(("name", "value"), [("batch", 0), ("threads", 0), ("percentile", 0), ("percentile", 100)])
def test_conditions_out_of_range_are_refused(name: str, value: int) -> None:
    """Under the name that the command line has for them."""
    with pytest.raises(UsageError, match=f"--{name} must be"):
        replace(QUICK, **{name: value})


def test_outputs_are_compared_by_their_range() -> None:
    """The worst output counts; outputs of other shapes are not compared."""
    one, other = [np.array([[0.0, 4.0]]), np.array([0.0, 100.0])], [np.array([[1.0, 4.0]]), np.array([1.0, 100.0])]
    parity = compare([one], [other])
    assert parity is not None
    assert parity.difference == 0.25
    assert parity.agreement == 1
    assert compare([one], [other[:1]]) is None
    assert compare([one], [[other[0].T, other[1]]]) is None
