"""OpenVINO on a CPU: in float32, in bfloat16 where the processor has it, and with linear layers stored in 4 bits."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError, shortened
from ...spaces.capabilities import Capabilities, Integers
from ..runtime import Arrays, Engine, Kernel, Source
from . import needed
from .host import describe_host

PROFILED_RUNS = 10

PROFILES = 3
"""How often a model is profiled; the least time counts, as its counters are means, which a pause would spoil."""

WIDTHS = {"i4": 4, "u4": 4, "i8": 8, "u8": 8, "f16": 16, "bf16": 16}
"""Bits of the types in which it says that an operation runs; all others have 32."""


class OpenVinoSession:
    """An `Engine` over a compiled model.

    A model whose batch alone is free is compiled again for each new batch size, a batch of one first:
    a fixed shape is a tenth faster on small networks.
    """

    def __init__(self, model: Any, settings: Mapping[str, object]) -> None:
        self.model = model
        self.settings = settings
        dims = [list(source.get_partial_shape()) for source in model.inputs]
        inner = [dim for shape in dims for dim in shape[1:]]
        self.fits = any(shape and shape[0].is_dynamic for shape in dims) and not any(d.is_dynamic for d in inner)
        self.shapes: list[tuple[int, ...]] = []
        if self.fits:
            self._fit([tuple(1 if d.is_dynamic else d.get_length() for d in shape) for shape in dims])
        else:
            self._compile()

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model once; one array an input in the model's order, batch first."""
        if self.fits and [x.shape for x in inputs] != self.shapes:
            self._fit([x.shape for x in inputs])
        held = [np.require(x, requirements=("C", "W")) for x in inputs]
        for i, array in enumerate(held):
            self.request.set_input_tensor(i, _openvino().Tensor(array, shared_memory=True))
        self.request.infer()
        return [tensor.data.copy() for tensor in self.request.output_tensors]

    def operations(self) -> list[Any]:
        """Return the operations of the optimised model in order, as OpenVINO describes them after the last run."""
        operations: list[Any] = self.compiled.get_runtime_model().get_ordered_ops()
        return operations

    def _fit(self, shapes: list[tuple[int, ...]]) -> None:
        try:
            self.model.reshape(dict(enumerate(map(list, shapes))))
            self._compile()
        except RuntimeError as error:
            reason = f"OpenVINO cannot give the model inputs of the shapes {shapes}: {_said(error)}."
            raise InfeasibleError(reason, rung="build") from error
        self.shapes = shapes

    def _compile(self) -> None:
        self.compiled = _core().compile_model(self.model, "CPU", self.settings)
        self.request = self.compiled.create_infer_request()


class OpenVino:
    """Serves ONNX files on a CPU, with one precision asked of all that is not INT8.

    Args:
        variant: ``""``, ``"bf16"``, or ``"int4"``, which stores the weights of linear layers in 4 bits and computes
            in float32.
    """

    def __init__(self, variant: str = "") -> None:
        self.name = f"openvino:{variant}" if variant else "openvino"
        self.variant = variant
        self.precision = "bf16" if variant == "bf16" else "f32"
        self.capabilities = Capabilities(
            runtime=self.name,
            integers=Integers(asymmetric=True, narrow=True),
            weight_bits=() if variant == "int4" else (4,),
            opset=21,
            rounds=bool(variant),
        )

    def convert(self, source: Source) -> bytes:
        """Make activations unsigned, and weights so small that pairs of products fit into 16 bits.

        OpenVINO fuses the canonical file as well, but on processors without VNNI its pairs of products do not fit
        into 16 bits then: a small network's outputs were off by a seventh of their range.

        Raises:
            InfeasibleError: 4 bits are asked, and there is no linear layer.
        """
        from ...compressors.onnx_files.onnxruntime_layout import maxima_of_integers, unsigned_activations

        return self._stored(maxima_of_integers(unsigned_activations(source.onnx, source.calibration)))

    @contextmanager
    def build(self, artefact: bytes, *, threads: int) -> Iterator[Engine]:
        """Compile an ONNX file.

        Raises:
            InfeasibleError: OpenVINO refuses the model.
        """
        yield self._session(artefact, threads)

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Return the operations that were executed, with the precision in which each ran."""
        import onnx

        graph = onnx.load_from_string(artefact).graph
        known = {name for node in graph.node for name in (node.name, *node.output)}
        profiles = [self._profiled(artefact, inputs) for _ in range(PROFILES)]
        operations = [op for op, _ in profiles[0]]
        times = zip(*([spent for _, spent in profile] for profile in profiles), strict=True)
        kernels = [_kernel(op, known, min(spent)) for op, spent in zip(operations, times, strict=True)]
        return [kernel for kernel in kernels if kernel.milliseconds or kernel.macs]

    def describe(self) -> Mapping[str, str]:
        """Return versions, device and the precision, to be stored with every number."""
        self._import()
        able = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        executed = self.precision if self.precision == "f32" or "BF16" in able else "f32"
        weights = " with linear weights in int4" if self.variant == "int4" else ""
        return {
            "openvino": str(_openvino().__version__),
            f"{self.name} precision": f"{self.precision} asked, {executed} executed{weights}",
            **describe_host(),
        }

    def _stored(self, artefact: bytes) -> bytes:
        """Return an ONNX file with weights as this variant stores them; one that has them so is returned as it is."""
        if self.variant != "int4":
            return artefact
        from .openvino_int4 import four_bits

        return four_bits(artefact)

    def _session(self, artefact: bytes, threads: int, **more: object) -> OpenVinoSession:
        self._import()
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": self.precision,
            **more,
        }
        try:
            return OpenVinoSession(_core().read_model(self._stored(artefact)), settings)
        except RuntimeError as error:  # the only exception that it raises
            raise InfeasibleError(f"OpenVINO cannot load the model: {_said(error)}.", rung="build") from error

    def _profiled(self, artefact: bytes, inputs: Arrays) -> list[tuple[Any, float]]:
        """Return the operations, each with its mean milliseconds without the first run, which may compile it."""
        session = self._session(artefact, 1, PERF_COUNT=True)
        session.infer(inputs)
        first = [_spent(op) for op in session.operations()]
        for _ in range(PROFILED_RUNS):
            session.infer(inputs)
        totals = [(op, _spent(op) * (PROFILED_RUNS + 1)) for op in session.operations()]
        return [(op, max(0, n - once) / PROFILED_RUNS / 1e3) for (op, n), once in zip(totals, first, strict=True)]

    def _import(self) -> None:
        """Import OpenVINO without its telemetry: it would tell its makers of every process that imports it.

        Raises:
            MissingRuntimeError: it is not installed.
        """
        if "openvino" in sys.modules:
            return
        telemetry = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # an import of it fails, as if it were absent
        try:
            needed("openvino", runtime=self.name, extra="openvino")
        finally:
            del sys.modules["openvino_telemetry"]
            if telemetry is not None:
                sys.modules["openvino_telemetry"] = telemetry


def _openvino() -> Any:
    return sys.modules["openvino"]


@cache
def _core() -> Any:
    return _openvino().Core()


def _said(error: Exception) -> str:
    """Return the line of a message of OpenVINO's that tells what it does not like: the last before its summary."""
    lines = [line.strip("- ").rstrip(". ") for line in str(error).splitlines() if line.strip()]
    rules = [line for line in lines if line.startswith("No conversion rule")]
    causes = list(takewhile(lambda line: line != "Summary:", lines))
    return shortened((rules or causes or lines or [type(error).__name__])[-1])


def _spent(op: Any) -> int:
    """Return the whole microseconds of an operation, the mean over all runs; where it is 0, OpenVINO has words."""
    spent: str = op.get_rt_info()["execTimeMcs"].astype(str)
    return int(spent) if spent.isdigit() else 0


def _kernel(op: Any, known: set[str], milliseconds: float) -> Kernel:
    info = op.get_rt_info()
    kind, precision, originals = (
        info[key].astype(str) for key in ("layerType", "runtimePrecision", "originalLayersNames")
    )
    names = [name.partition("/WithoutBiases")[0] for name in originals.split(",")]
    return Kernel(
        name=next((name for name in names if name in known), op.get_friendly_name()),
        kind=kind,
        bits=WIDTHS.get(precision, 32),
        milliseconds=milliseconds,
        macs=_macs(op, kind),
    )


def _macs(op: Any, kind: str) -> int:
    if kind not in ("Convolution", "Deconvolution", "FullyConnected", "MatMul"):
        return 0
    made, taken, weight = (_shape(value) for value in (op.output(0), op.input_value(0), op.input_value(1)))
    if kind == "Deconvolution":
        return math.prod(taken) * math.prod(weight) // taken[1]
    return math.prod(made) * (math.prod(weight) // made[1] if kind == "Convolution" else taken[-1])


def _shape(output: Any) -> tuple[int, ...]:
    return tuple(output.get_shape())


VARIANTS = {variant: OpenVino(variant) for variant in ("", "bf16", "int4")}
