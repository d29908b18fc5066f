"""A model file in MNN on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def opened(path: Path, variant: str, threads: int) -> Callable[[Any], Any]:
    """Return a function from a list of arrays to a list of arrays; the session is resized for each new shape."""
    memory = "low" if variant == "w8" else "normal"
    with stdout_to_stderr():
        import MNN

        interpreter = MNN.Interpreter(str(path))
        session = interpreter.createSession(
            {"backend": "CPU", "numThread": threads, "precision": "high", "memory": memory}
        )
    shapes: list[Any] = []

    def host(array: Any, kind: Any) -> Any:
        return MNN.Tensor(array.shape, kind, array, MNN.Tensor_DimensionType_Caffe)

    def run(inputs: Any) -> Any:
        sources = interpreter.getSessionInputAll(session)
        pairs = [(sources[name], x) for name, x in zip(in_order(sources), inputs)]
        if shapes != [x.shape for x in inputs]:
            for source, x in pairs:
                interpreter.resizeTensor(source, x.shape)
            interpreter.resizeSession(session)
            shapes[:] = [x.shape for x in inputs]
        for source, x in pairs:
            integer = np.issubdtype(x.dtype, np.integer)
            array = np.ascontiguousarray(x, np.int32 if integer else np.float32)
            source.copyFrom(host(array, MNN.Halide_Type_Int if integer else MNN.Halide_Type_Float))
        if interpreter.runSession(session):
            raise RuntimeError("MNN cannot run the model")
        outputs = interpreter.getSessionOutputAll(session)
        return [read(outputs[name]) for name in in_order(outputs)]

    def read(output: Any) -> Any:
        array = np.zeros(output.getShape(), np.float32)
        tensor = host(array, MNN.Halide_Type_Float)
        output.copyToHostTensor(tensor)
        return np.array(tensor.getNumpyData())

    return run


def in_order(tensors: Any) -> Any:
    """Return names as the exporter counts them: input2 before input10."""
    return sorted(tensors, key=lambda name: (len(name), name))


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what MNN itself prints to where messages belong."""
    flush = ctypes.CDLL(None).fflush
    sys.stdout.flush()
    flush(None)
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(kept)
