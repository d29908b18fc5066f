"""What the programs of all runtimes share: `predict`, and a check of the answers."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .onnxruntime import opened

FILE: str = "model.onnx"
OUTPUT: str = "output"
RUNTIME: str = "onnxruntime"
VARIANT: str = ""
THREADS: int = 1

FOLDER = Path(__file__).resolve().parent

SAME = 1e-3  # largest difference that rounding explains, as a share of the outputs' range


@lru_cache
def model() -> Any:
    """Return the model, opened once: it takes a list of arrays and returns one."""
    return opened(FOLDER / FILE, VARIANT, THREADS)


def predict(*inputs: Any) -> Any:
    """Return what the model answers to arrays, batch first; a list where it has several outputs."""
    outputs = model()([np.ascontiguousarray(x) for x in inputs])
    return outputs[0] if len(outputs) == 1 else outputs


def check() -> int:
    """Compare the model's answers with the stored ones, say how far they are apart, and return an exit code."""
    with np.load(FOLDER / "predictions.npz") as stored:
        inputs = [stored[f"input{i}"] for i in range(sum(name.startswith("input") for name in stored.files))]
        expected = stored[OUTPUT]
    actual = predict(*inputs)
    actual = np.asarray(actual[0] if isinstance(actual, list) else actual)
    if actual.shape != expected.shape:
        print(f"{FILE} on {RUNTIME}: its outputs have the shape {actual.shape}, the stored ones {expected.shape}")
        return 1
    span = max(float(np.ptp(expected)), 1e-12)
    apart = float(np.abs(actual.astype(np.float64) - expected).max()) / span
    same = bool(apart <= SAME)
    verdict = "the same as" if same else "others than"
    text = f"{FILE} on {RUNTIME}: the answers to {len(expected)} stored examples are {verdict} when it was measured"
    text += f" (at most {apart:.2g} of their range apart"
    if expected.ndim == 2 and expected.shape[1] > 1:
        text += f", the same class for {np.mean(actual.argmax(1) == expected.argmax(1)):.0%}"
    print(text + ")")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(check())
