"""The commands that pack a model file and bring it back, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autocompress.compressors.compact.acz import pack

Completed = subprocess.CompletedProcess[str]


def run(folder: Path, *arguments: object) -> Completed:
    """Return what the command does in a folder."""
    line = [str(Path(sys.executable).with_name("autocompress")), *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)


def names(folder: Path) -> set[str]:
    """Return the files in a folder."""
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with ``model.onnx``: a matrix of eight different weights and a bias."""
    random = np.random.default_rng(0)
    weight = random.standard_normal(8).astype(np.float32)[random.binomial(7, 0.5, (64, 64))]
    constants = [numpy_helper.from_array(weight, "layer.weight"), numpy_helper.from_array(weight[0], "layer.bias")]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
    nodes = [helper.make_node("Gemm", ["x", "layer.weight", "layer.bias"], ["y"])]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y], constants)), tmp_path / "model.onnx")
    return tmp_path


def test_a_file_comes_back(folder: Path) -> None:
    """With a table of what its tensors became; nothing else is left in the folder."""
    original = (folder / "model.onnx").read_bytes()
    done = run(folder, "pack", "model.onnx")
    assert done.returncode == 0, done.stderr
    header, weight, rest, total, *_ = (line.split() for line in done.stdout.splitlines())
    packed = (folder / "model.acz").read_bytes()
    assert packed == pack(original)
    assert header == ["tensor", "type", "coded", "as", "bytes", "packed", "values", "entropy", "bits"]
    assert weight[:4] == ["layer.weight", "float32", "palette", "16,384"]
    assert weight[5] == "8"
    assert float(weight[6]) < float(weight[7]) < float(weight[6]) + 0.3
    assert rest[:3] == ["the", "rest", "deflate"]
    assert total == ["all", f"{len(original):,}", f"{len(packed):,}"]
    assert f"{len(packed) / len(original):.1%} of the size" in done.stdout
    assert "written: model.acz" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80

    done = run(folder, "unpack", "model.acz", "-o", "again.onnx")
    assert done.returncode == 0, done.stderr
    assert (folder / "again.onnx").read_bytes() == original
    assert names(folder) == {"model.onnx", "model.acz", "again.onnx"}


def test_json_has_every_tensor(folder: Path) -> None:
    """Sizes, values and entropy, and the sizes of the files."""
    done = run(folder, "pack", "model.onnx", "--out", "other.acz", "--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["after_bytes"] == (folder / "other.acz").stat().st_size < data["before_bytes"]
    (tensor,) = data["tensors"]
    assert (tensor["name"], tensor["count"], tensor["distinct"]) == ("layer.weight", 4096, 8)
    assert tensor["entropy_bits"] == pytest.approx(2.45, abs=0.05)


def test_nothing_is_overwritten_unasked(folder: Path) -> None:
    """A file that is there stays, whatever it is, until --force; the file that is read stays even then."""
    original = (folder / "model.onnx").read_bytes()
    (folder / "model.acz").write_bytes(b"mine")
    done = run(folder, "pack", "model.onnx")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "autocompress: --out must be a new file; 'model.acz' exists. --force replaces it.\n"
    assert (folder / "model.acz").read_bytes() == b"mine"

    assert run(folder, "pack", "model.onnx", "--force").returncode == 0
    done = run(folder, "unpack", "model.acz")
    assert (done.returncode, "'model.onnx' exists" in done.stderr) == (2, True)
    done = run(folder, "pack", "model.onnx", "-o", "model.onnx", "--force")
    assert (done.returncode, "another file" in done.stderr) == (2, True)
    assert (folder / "model.onnx").read_bytes() == original
    (folder / "model.onnx").write_bytes(b"older")
    assert run(folder, "unpack", "model.acz", "--force").returncode == 0
    assert (folder / "model.onnx").read_bytes() == original


@pytest.mark.parametrize(
    ("command", "content", "said"),
    [
        ("pack", None, "must be a file; 'given'"),
        ("pack", b"no model", "must be one whole ONNX file"),
        ("unpack", None, "must be a file; 'given'"),
        ("unpack", b"no model", "'given' cannot be unpacked: A compact file must begin with"),
        ("unpack", "damaged", "'given' cannot be unpacked: A compact file must be whole"),
    ],
)
def test_what_cannot_be_read_is_told(folder: Path, command: str, content: bytes | str | None, said: str) -> None:
    """A sentence, exit code 2, and no file."""
    if content == "damaged":
        content = pack((folder / "model.onnx").read_bytes())[:-100]
    if isinstance(content, bytes):
        (folder / "given").write_bytes(content)
    before = names(folder)
    done = run(folder, command, "given")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert names(folder) == before


def test_a_folder_that_is_not_there_is_told(folder: Path) -> None:
    """What cannot be written ends with a sentence, too."""
    done = run(folder, "pack", "model.onnx", "-o", "nowhere/model.acz")
    assert (done.returncode, "--out must be a file that can be written" in done.stderr) == (2, True)
