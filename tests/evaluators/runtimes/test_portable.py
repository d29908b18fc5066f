"""A model file runs without autocompress, by a program that lies beside it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autocompress.errors import MissingRuntimeError
from autocompress.evaluators.portable import PARTS, has_program, needs, script
from autocompress.evaluators.runtimes import load, variants_of

from .conftest import Sample

Samples = Callable[[str], Sample]
Converted = Callable[[str, str], bytes]

ALONE = """
import os, runpy, sys
import numpy

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "autocompress":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Block())
try:
    import autocompress
except ModuleNotFoundError:
    try:
        runpy.run_path(sys.argv[1], run_name="__main__")
    except SystemExit as ended:
        if ended.code:
            raise
    sys.path.insert(0, os.path.dirname(sys.argv[1]))
    from load import predict
    print(predict(numpy.ones((3, 3, 16, 16), numpy.float32)).shape)
"""
"""Runs a program, then imports it and serves three images, in a process in which autocompress cannot be imported."""

HERE = [
    ("onnxruntime", "float"),
    ("onnxruntime", "int8"),
    ("openvino", "int8"),
    ("openvino:bf16", "float"),
    ("openvino:int4", "float"),
    ("pytorch", "pruned"),
    ("pytorch:eager", "pruned"),
    ("pytorch:bf16", "float"),
    ("litert", "float"),
    ("litert", "int8"),
    ("mnn", "pruned"),
    ("mnn:w8", "float"),
    ("mnn:fp16", "float"),
]


def python(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Return how an isolated interpreter ended."""
    command = [sys.executable, "-I", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def filled(folder: Path, name: str, artefact: bytes, it: Sample, *, wrong: float = 0.0) -> Path:
    """Return a folder with a model, its program, and what it answered here."""
    runtime = load(name)
    file = f"model{runtime.capabilities.reads[0]}"
    folder.mkdir(parents=True)
    (folder / file).write_bytes(artefact)
    with runtime.build(artefact, threads=1) as engine:
        (output,) = engine.infer(it.batches[1])
    np.savez(folder / "predictions.npz", input0=it.batches[1][0], output=output + np.float32(wrong))
    (folder / "load.py").write_text(script(name, file=file))
    return folder


@pytest.mark.parametrize(("name", "kind"), HERE)
def test_the_program_answers_as_the_runtime_does(
    name: str, kind: str, sample: Samples, converted: Converted, tmp_path: Path
) -> None:
    """In a process without autocompress, from a path with spaces; other batches are served from Python."""
    try:
        load(name).describe()
    except MissingRuntimeError as error:
        pytest.skip(str(error))
    folder = filled(tmp_path / "a model of mine", name, converted(name, kind), sample(kind))
    done = python("-c", ALONE, folder / "load.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the answers to 5 stored examples are the same as when it was measured" in done.stdout
    assert "the same class for 100%" in done.stdout
    assert done.stdout.strip().splitlines()[-1] == "(3, 10)", done.stderr


def test_other_answers_are_told(sample: Samples, converted: Converted, tmp_path: Path) -> None:
    """The exit code is 1, and it is said how far they are apart."""
    done = python(
        filled(tmp_path / "m", "onnxruntime", converted("onnxruntime", "float"), sample("float"), wrong=0.5)
        / "load.py",
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "are others than when it was measured" in done.stdout


def test_the_runtime_s_package_is_named_where_it_is_missing(
    sample: Samples, converted: Converted, tmp_path: Path
) -> None:
    """The program's first lines say what to install, and Python what is missing."""
    program = filled(tmp_path / "m", "onnxruntime", converted("onnxruntime", "float"), sample("float")) / "load.py"
    blocked = ALONE.replace('== "autocompress"', 'in ("autocompress", "onnxruntime")')
    done = python("-c", blocked, program, cwd=tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError: onnxruntime" in done.stderr
    assert "pip install numpy onnxruntime\n" in program.read_text()


@pytest.mark.parametrize("family", PARTS)
def test_every_variant_has_a_program_of_its_own_package_alone(family: str) -> None:
    """It parses, names what to install, and imports nothing of ours."""
    for variant in variants_of(family):
        name = f"{family}:{variant}".rstrip(":")
        text = script(name, file="model.bin", threads=2)
        compile(text, "load.py", "exec")
        assert has_program(name)
        assert needs(name) in text
        assert "import autocompress" not in text
        assert "from ." not in text
        assert f"VARIANT = {variant!r}" in text
