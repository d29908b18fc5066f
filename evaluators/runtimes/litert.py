"""LiteRT, formerly TensorFlow Lite: what phones and small boards run; on a CPU its kernels are XNNPACK's.

A file of ours has the batch size of the examples, because reshapes inside are fixed: larger batches run in pieces.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError, gist
from ...spaces.capabilities import Capabilities, Integers
from ..runtime import Arrays, Engine, Kernel, Source
from . import needed
from .host import describe_host
from .litert_graph import WINDOWS, Details, LiteRtOperation, operations

WIDTHS = {"int4": 4, "int8": 8, "uint8": 8, "int16": 16, "float16": 16}
"""Bits of NumPy's types; all others have 32."""

FLOAT_KINDS = frozenset({"conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
"""Kinds of layers that its converter or its quantizer leaves in float."""


UNQUANTIZED = {"CONV_3D": slice(None, 4), "TRANSPOSE_CONV": slice(None, 3)}
"""The same of operations that stay in float; of a transposed one for each number that it reads."""


@dataclass(frozen=True)
class Interpreter:
    """An `Engine` over an ``ai_edge_litert.interpreter.Interpreter``."""

    interpreter: Any

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model on pieces of its own batch size, the last one filled up with copies of its last row."""
        sources, targets = self.interpreter.get_input_details(), self.interpreter.get_output_details()
        size, count = int(sources[0]["shape"][0]), len(inputs[0])
        pieces = []
        for start in range(0, count, size):
            for source, x in zip(sources, inputs, strict=True):
                rows = np.minimum(np.arange(start, start + size), count - 1)
                self.interpreter.set_tensor(source["index"], _stored(x if count == size else x[rows], source))
            self.interpreter.invoke()
            pieces.append([_as_float(self.interpreter.get_tensor(t["index"]), t) for t in targets])
        return [np.concatenate(parts)[:count] for parts in zip(*pieces, strict=True)]


class LiteRt:
    """Serves .tflite files on the CPU.

    Args:
        variant: ``dynamic`` stores all weights of a float network in INT8, and rounds activations as it runs.
    """

    def __init__(self, variant: str = "") -> None:
        self.name = f"litert:{variant}" if variant else "litert"
        self.dynamic = variant == "dynamic"
        self.capabilities = Capabilities(
            runtime=self.name,
            bits=(32,) if self.dynamic else (32, 8),
            integers=Integers(asymmetric=True),
            float_kinds=FLOAT_KINDS,
            reads=(".tflite",),
            opset=None,
            free_batch=False,
            rounds=self.dynamic,
        )

    def convert(self, source: Source) -> bytes:
        """Convert the network by way of `torch.export`, and quantize the layers that compute in INT8."""
        if source.module is None:
            raise InfeasibleError("LiteRT reads no ONNX: give it a .tflite file or a PyTorch network.", rung="build")
        if self.dynamic and source.quantized:
            raise InfeasibleError(
                "litert:dynamic quantizes a whole float network: --runtime litert has INT8 for single layers.",
                rung="build",
            )
        from .litert_convert import convert

        return convert(source, runtime=self.name, dynamic=self.dynamic)

    @contextmanager
    def build(self, artefact: bytes, *, threads: int) -> Iterator[Engine]:
        """Build an interpreter from a .tflite file.

        Raises:
            InfeasibleError: LiteRT refuses the model.
        """
        yield Interpreter(self._interpreter(artefact, threads))

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Return the file's operations, for its own batch size; without times, as Python cannot reach the profiler."""
        return [_kernel(operation) for operation in operations(self._interpreter(artefact, threads=1))]

    def describe(self) -> Mapping[str, str]:
        """Return versions and device, to be stored with every number."""
        self._import()
        return {"ai_edge_litert": version("ai-edge-litert"), **describe_host()}

    def _interpreter(self, artefact: bytes, threads: int) -> Any:
        module = self._import()
        try:
            interpreter = module.Interpreter(model_content=artefact, num_threads=threads)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InfeasibleError(f"LiteRT cannot load the model: {gist(error)}.", rung="build") from error
        return interpreter

    def _import(self) -> Any:
        return needed("ai_edge_litert.interpreter", runtime=self.name, extra="litert")


def _kernel(operation: LiteRtOperation) -> Kernel:
    made, window = operation.outputs[0], WINDOWS.get(operation.kind) or UNQUANTIZED.get(operation.kind)
    decides = operation.inputs[1 if window else 0]
    counted = operation.inputs[2] if operation.kind == "TRANSPOSE_CONV" else made
    macs = math.prod([*counted["shape"].tolist(), *decides["shape"].tolist()[window]]) if window else 0
    bits = WIDTHS.get(np.dtype(decides["dtype"]).name, 32)
    return Kernel(name=made["name"], kind=operation.kind, bits=bits, macs=macs)


def _stored(x: NDArray[np.generic], details: Details) -> NDArray[np.generic]:
    """Return an input as the model takes it: a quantized one takes integers."""
    scale, zero = details["quantization"]
    if scale and np.issubdtype(x.dtype, np.floating):
        limits = np.iinfo(details["dtype"])
        x = np.clip(np.rint(x / scale) + zero, limits.min, limits.max)
    return x.astype(details["dtype"], copy=False)


def _as_float(x: NDArray[np.generic], details: Details) -> NDArray[np.generic]:
    """Return an output as PyTorch gives it."""
    scale, zero = details["quantization"]
    return (x.astype(np.float32) - np.float32(zero)) * np.float32(scale) if scale else x


VARIANTS = {"": LiteRt(), "dynamic": LiteRt("dynamic")}
