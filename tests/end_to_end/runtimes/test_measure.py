"""The command that measures a model file, and how commands are told apart."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Command = Callable[..., subprocess.CompletedProcess[str]]

FAULTY = Path(__file__).parents[2] / "evaluators" / "faulty.py"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Return a folder with a convolution in ``float.onnx``, and in ``int8.onnx`` with its weight in INT8."""
    weight = np.random.default_rng(0).integers(-100, 100, (64, 3, 3, 3)).astype(np.int8)
    for name in ("float", "int8"):
        nodes = [helper.make_node("Conv", ["image", "weight"], ["y"])]
        constants = [numpy_helper.from_array(weight.astype(np.float32), "weight")]
        if name == "int8":
            nodes.insert(0, helper.make_node("DequantizeLinear", ["stored", "scale"], ["weight"]))
            constants = [numpy_helper.from_array(weight, "stored"), numpy_helper.from_array(np.float32(1), "scale")]
        x = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "height", "width"])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64, None, None])
        graph = helper.make_graph(nodes, "convolution", [x], [y], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / f"{name}.onnx")
    return tmp_path


def test_a_table_of_runtimes(models: Path, command: Command) -> None:
    """A line each, in 80 columns; one that crashes has its reason below, and nothing is on stderr."""
    line = ("measure", "int8.onnx", "--runtime", "onnxruntime", "--runtime", f"{FAULTY}:segfault", "--quick")
    done = command(models, *line, "--input", "image=1x3x64x64", "--batch", 1)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    header, served, crashed, _, fed, *_ = done.stdout.splitlines()
    assert max(map(len, (header, served, crashed))) <= 80
    assert served.split()[0] == "onnxruntime"
    assert crashed.split() == ["faulty.py:segfault", *"–" * 7]
    assert fed == "image 1×3×64×64 float32 · 1 thread · median of the runs"
    assert "Ratios and outputs are relative to int8.onnx on onnxruntime." in done.stdout
    assert "faulty.py:segfault: The runtime crashed with SIGSEGV" in done.stdout


def test_json_has_everything(models: Path, command: Command) -> None:
    """The raw times, and what follows from them; stdout is JSON and nothing else."""
    line = ("measure", "int8.onnx", "--reference", "float.onnx", "--input", "image=2x3x32x32")
    done = command(models, *line, "--quick", "--percentile", 75, "--threads", 2, "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert (data["model"], data["reference"]) == ("int8.onnx", "float.onnx")
    assert data["conditions"]["threads"] == 2
    (row,) = data["runtimes"]
    latency = row["latency"]
    assert latency["percentile"] == 75
    assert len(latency["windows"]) == len(latency["ratios"]) >= 3
    assert latency["low_ms"] <= latency["median_ms"] <= latency["high_ms"]
    assert sum(len(window["candidate_ns"]) for window in latency["windows"]) == latency["runs"]
    assert row["peak_bytes"] > row["size_bytes"] == (models / "int8.onnx").stat().st_size
    assert {"started", "load_before", "onnxruntime"} <= set(latency["environment"])
    assert data["calibration"]["windows"]


def test_nothing_that_serves_it_is_exit_code_1(models: Path, command: Command) -> None:
    """The table says why."""
    done = command(models, "measure", "int8.onnx", "--runtime", f"{FAULTY}:segfault", "--input", "image=1x3x8x8")
    assert done.returncode == 1
    assert "crashed with SIGSEGV" in done.stdout


MISTAKES = {
    "no model": (("measure",), "Missing argument"),
    "unknown ending": (("measure", "x.foo"), "must end with one of"),
    "missing file": (("measure", "x.onnx"), "No such file"),
    "wrong input": (("measure", "float.onnx", "--input", "label=1x3"), "an input of the model: image; got label"),
    "wrong shape": (("measure", "float.onnx", "--input", "image=3x8x8"), "the model's own image ?×3×?×? float32"),
    "missing package": (("measure", "float.onnx", "--runtime", "onnxruntime:cuda"), "pip install onnxruntime-gpu"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told(models: Path, command: Command, case: str) -> None:
    """The exit code is 2, and stdout stays empty."""
    line, message = MISTAKES[case]
    done = command(models, *line)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_energy_without_a_counter_is_refused(models: Path, command: Command) -> None:
    """No estimate is made up; where the machine has a counter, joules are reported."""
    done = command(models, "measure", "float.onnx", "--input", "image=1x3x8x8", "--quick", "--energy", "--json")
    if done.returncode == 0:
        assert json.loads(done.stdout)["runtimes"][0]["energy"]["source"] == "rapl"
    else:
        assert done.returncode == 2
        assert "leave --energy out" in done.stderr


@pytest.mark.parametrize("line", [("-h",), ("--help",), ("measure", "-h"), ("doctor", "-h")])
def test_help_fits_the_terminal(tmp_path: Path, command: Command, line: tuple[str, ...]) -> None:
    """It has examples; that of the whole has the study's options and the other commands."""
    done = command(tmp_path, *line)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "Examples:" in done.stdout
    if len(line) == 1:
        assert "Usage: autocompress [OPTIONS] [study]" in done.stdout
        for word in ("--target-latency", "--percentile", "measure", "doctor"):
            assert word in done.stdout


def test_a_line_without_a_command_is_a_study(tmp_path: Path, command: Command) -> None:
    """Nothing at all, options first, or a study first: all are the same command, which does not show its name."""
    for line in ((), ("--trials", 3), ("fashion_mnist", "--trials", 3)):
        done = command(tmp_path, *line)
        assert done.returncode == 2
        assert done.stderr.startswith("autocompress: --target-latency must be the latency that a model has to meet")
    assert command(tmp_path, "--version").stdout.startswith("autocompress ")
