"""A model file in LiteRT on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .pieces import in_pieces


def opened(path: Path, variant: str, threads: int) -> Callable[[Any], Any]:
    """Return a function from a list of arrays to a list of arrays; integers inside are floats outside."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    sources, targets = interpreter.get_input_details(), interpreter.get_output_details()

    def run(inputs: Any) -> Any:
        for source, x in zip(sources, inputs):
            interpreter.set_tensor(source["index"], _stored(x, source))
        interpreter.invoke()
        return [_as_float(interpreter.get_tensor(target["index"]), target) for target in targets]

    return lambda inputs: in_pieces(run, int(sources[0]["shape"][0]), inputs)


def _stored(x: Any, details: Any) -> Any:
    scale, zero = details["quantization"]
    if scale and np.issubdtype(x.dtype, np.floating):
        limits = np.iinfo(details["dtype"])
        x = np.clip(np.rint(x / scale) + zero, limits.min, limits.max)
    return x.astype(details["dtype"], copy=False)


def _as_float(x: Any, details: Any) -> Any:
    scale, zero = details["quantization"]
    return (x.astype(np.float32) - np.float32(zero)) * np.float32(scale) if scale else x
