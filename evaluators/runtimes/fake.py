"""A runtime for tests: it answers like ONNX Runtime, and its latencies are known without a clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ...errors import InfeasibleError
from ...spaces.capabilities import Capabilities
from . import Arrays, Kernel, Source
from .onnxruntime import OnnxRuntime

NODE_NS = 20_000
FLOAT_NS = 10
INT8_NS = 4


class FakeRuntime(OnnxRuntime):
    """ONNX Runtime whose latency is a pure function of the ONNX file."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "fake"
        self.capabilities = Capabilities(runtime="fake")

    def convert(self, source: Source) -> bytes:
        """Return the file as it is."""
        return source.onnx

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Return nothing: a clock would make a search differ from run to run."""
        return ()

    def describe(self) -> Mapping[str, str]:
        """Return versions and device, to be stored with every number."""
        return {**super().describe(), "cpu": "fake"}

    def latency_ns(self, artefact: bytes) -> int:
        """Return the latency of one run in nanoseconds.

        Each Conv, Gemm and MatMul costs `NODE_NS`, and `FLOAT_NS` or `INT8_NS` for each element of its weight.

        Raises:
            InfeasibleError: the bytes are no ONNX file.
        """
        import onnx

        try:
            graph = onnx.load_from_string(artefact).graph
        except Exception as error:  # protobuf's exceptions differ between its versions
            raise InfeasibleError(
                "The fake runtime cannot load the model: it is no ONNX file.", rung="build"
            ) from error
        elements = {weight.name: math.prod(weight.dims) for weight in graph.initializer}
        stored = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        total = 0
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm", "MatMul"):
                weight = node.input[1]
                cost = INT8_NS if weight in stored else FLOAT_NS
                total += NODE_NS + cost * elements.get(stored.get(weight, weight), 0)
        return total


VARIANTS = {"": FakeRuntime()}
