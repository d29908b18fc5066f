"""What a fresh process finds that serves one model: memory, outputs, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autocompress.errors import InfeasibleError
from autocompress.evaluators.meters.memory import last_level_cache, peak_memory
from autocompress.evaluators.meters.serve_once import peak_so_far, serve_once

from ..models import linear

FAULTY = str(Path(__file__).parents[1] / "faulty.py")
WIDTH = 2048


def test_a_larger_model_needs_more_memory() -> None:
    """By its weights at least, and by a few copies of them at most; the two processes are alike in all else."""
    small, large = (peak_memory("onnxruntime", linear(width=w), [np.ones((1, w), np.float32)]) for w in (4, WIDTH))
    assert small is not None
    assert large is not None
    assert WIDTH**2 * 4 < large - small < WIDTH**2 * 4 * 6


def test_memory_is_not_that_of_who_asks() -> None:
    """This process has torch and more; the fresh one has only what serves."""
    ours, theirs = peak_so_far(), peak_memory("onnxruntime", linear(), [np.ones((1, 4), np.float32)])
    assert ours is not None
    assert theirs is not None
    assert theirs < ours


def test_the_process_loads_nothing_large() -> None:
    """Neither torch nor anything else that a runtime does not need."""
    code = (
        "import sys, autocompress.evaluators.meters.serve_once; "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'scipy', 'ray') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_outputs_come_back_batch_by_batch() -> None:
    """Also of different sizes, with the widths of the kernels that made them."""
    batches = [[np.full((n, 4), n, np.float32)] for n in (1, 3, 2)]
    serving = serve_once("onnxruntime", linear(), batches, kernels=True)
    weight = serve_once("onnxruntime", linear(), [[np.eye(4, dtype=np.float32)]]).outputs[0][0]
    for (inputs,), (output,) in zip(batches, serving.outputs, strict=True):
        np.testing.assert_allclose(output, inputs @ weight, rtol=1e-5)
    assert serving.macs == {32: 16}
    assert "onnxruntime" in serving.environment


@pytest.mark.parametrize(
    ("runtime", "artefact", "reason"),
    [
        ("onnxruntime", b"garbage", "ONNX Runtime cannot load the model"),
        (f"{FAULTY}:segfault", linear(int8=True), "crashed with SIGSEGV"),
        (f"{FAULTY}:hang", linear(int8=True), "not tried within 3 s"),
    ],
)
def test_a_model_that_does_harm_is_infeasible(runtime: str, artefact: bytes, reason: str) -> None:
    """Whatever it does to its process, the asking process survives."""
    with pytest.raises(InfeasibleError, match=reason) as caught:
        peak_memory(runtime, artefact, [np.ones((1, 4), np.float32)], timeout_s=3)
    assert caught.value.rung == "build"


def test_the_last_cache_is_the_largest(tmp_path: Path) -> None:
    """The system lists every cache with its size; where it lists none, nothing is known."""
    assert last_level_cache(tmp_path) is None
    for number, size in enumerate(("32K", "32K", "512K", "32768K")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(f"{size}\n")
    assert last_level_cache(tmp_path) == 32 << 20
