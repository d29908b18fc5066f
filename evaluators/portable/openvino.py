"""A model file in OpenVINO on a CPU."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def opened(path: Path, variant: str, threads: int) -> Callable[[Any], Any]:
    """Return a function from a list of arrays to a list of arrays, which compiles the model for each new shape."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # else it tells its makers of each import
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "bf16" if variant == "bf16" else "f32",
    }
    dims = [list(source.get_partial_shape()) for source in model.inputs]
    fits = any(shape and shape[0].is_dynamic for shape in dims)
    fits = fits and not any(dim.is_dynamic for shape in dims for dim in shape[1:])
    compiled = {}

    def run(inputs: Any) -> Any:
        shapes = tuple(x.shape for x in inputs) if fits else ()
        if shapes not in compiled:
            if fits:
                model.reshape(dict(enumerate(map(list, shapes))))
            compiled[shapes] = core.compile_model(model, "CPU", settings)
        return [np.array(output) for output in compiled[shapes](list(inputs)).to_tuple()]

    return run
