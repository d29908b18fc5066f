"""A runtime for tests: it answers like ONNX Runtime, and its latencies are known without a clock."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence

from ...errors import InfeasibleError
from ...spaces.capabilities import Capabilities
from ..runtime import Arrays, Kernel, Source
from .onnxruntime import OnnxRuntime

NODE_NS, FLOAT_NS, INT8_NS = 20_000, 10, 4

ENVIRONMENT = "AUTOCOMPRESS_FAKE_NS"
"""Environment variable with three other numbers, ``20000,10,4``: a machine that has it is another device."""


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

        Each Conv, Gemm and MatMul costs `NODE_NS`, and `FLOAT_NS` or `INT8_NS` for each element of its weight, unless
        the environment says otherwise.

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
        given = os.environ.get(ENVIRONMENT)
        node_ns, float_ns, int8_ns = map(int, given.split(",")) if given else (NODE_NS, FLOAT_NS, INT8_NS)
        total = 0
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm", "MatMul"):
                weight = node.input[1]
                cost = int8_ns if weight in stored else float_ns
                total += node_ns + cost * elements.get(stored.get(weight, weight), 0)
        return total


VARIANTS = {"": FakeRuntime()}
