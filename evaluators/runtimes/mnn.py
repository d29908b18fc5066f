"""MNN: what many phone applications serve with; its low precision on a CPU is for size, not for speed."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError
from ...spaces.capabilities import Capabilities
from ..portable.mnn import in_order, stdout_to_stderr
from ..runtime import Arrays, Engine, Kernel, Source
from ..scratch import scratch
from . import needed
from .host import describe_host

PROFILED_RUNS = 20

WEIGHTED = {"Convolution", "ConvolutionDepthwise", "Deconvolution", "DeconvolutionDepthwise"}
"""What MNN calls operations with weights; it makes convolutions of linear layers."""

FLAGS = {"": (), "w8": ("--weightQuantBits", "8"), "fp16": ("--fp16",)}
"""What each variant adds to the converter's arguments."""


@dataclass
class MnnSession:
    """An `Engine` over a session of an ``MNN.Interpreter``, which is resized when the shapes of its inputs change."""

    mnn: Any
    interpreter: Any
    session: Any
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model once; one array an input in the order of their names, batch first."""
        self.feed(inputs)
        if status := self.interpreter.runSession(self.session):
            raise InfeasibleError(f"MNN cannot run the model: its error {status}.", rung="build")
        outputs = self.interpreter.getSessionOutputAll(self.session)
        return [self._read(outputs[name]) for name in in_order(outputs)]

    def feed(self, inputs: Arrays) -> None:
        """Copy inputs to the session."""
        sources = self.interpreter.getSessionInputAll(self.session)
        pairs = [(sources[name], x) for name, x in zip(in_order(sources), inputs, strict=True)]
        shapes = [x.shape for x in inputs]
        if shapes != self.shapes:
            for source, x in pairs:
                self.interpreter.resizeTensor(source, x.shape)
            self.interpreter.resizeSession(self.session)
            self.shapes = shapes
        for source, x in pairs:
            integer = np.issubdtype(x.dtype, np.integer)
            array = np.ascontiguousarray(x, np.int32 if integer else np.float32)  # is read behind `host`: keep it
            host = self._host(array, self.mnn.Halide_Type_Int if integer else self.mnn.Halide_Type_Float)
            source.copyFrom(host)

    def _read(self, output: Any) -> NDArray[np.generic]:
        array = np.zeros(output.getShape(), np.float32)
        output.copyToHostTensor(host := self._host(array, self.mnn.Halide_Type_Float))
        return np.array(host.getNumpyData())

    def _host(self, array: NDArray[np.generic], kind: Any) -> Any:
        return self.mnn.Tensor(array.shape, kind, array, self.mnn.Tensor_DimensionType_Caffe)


class Mnn:
    """Serves .mnn files on the CPU.

    Args:
        variant: ``w8`` and ``fp16`` store the weights of a float network in INT8 and in float16.
    """

    def __init__(self, variant: str = "") -> None:
        self.name = f"mnn:{variant}" if variant else "mnn"
        self.variant = variant
        self.capabilities = Capabilities(
            runtime=self.name, bits=(32,), reads=(".mnn",), isolated=True, rounds=bool(variant)
        )

    def convert(self, source: Source) -> bytes:
        """Convert the canonical file; weights are narrowed by the variant alone."""
        if source.quantized:
            raise InfeasibleError(
                "MNN's INT8 layers are slower than float and less accurate: --runtime mnn:w8 stores weights in INT8.",
                rung="build",
            )
        self._check()
        from .mnn_convert import convert

        return convert(source.onnx, FLAGS[self.variant])

    @contextmanager
    def build(self, artefact: bytes, *, threads: int) -> Iterator[Engine]:
        """Build a session from a .mnn file.

        Raises:
            InfeasibleError: MNN refuses the model.
        """
        yield self._session(artefact, threads)

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Return the operations as they ran, timed between calls from MNN back to Python."""
        session = self._session(artefact, threads=1)
        session.feed(inputs)
        spent: dict[str, list[float]] = defaultdict(list)
        kernels: dict[str, Kernel] = {}
        started = 0.0

        def before(_: object, operation: Any) -> bool:
            nonlocal started
            started = time.perf_counter()
            return True

        def after(_: object, operation: Any) -> bool:
            name, kind = operation.getName(), operation.getType()
            spent[name].append((time.perf_counter() - started) * 1e3)
            macs = round(operation.getFlops() * 1e6) if kind in WEIGHTED else 0
            kernels[name] = Kernel(name=name, kind=kind, macs=macs)
            return True

        for _ in range(PROFILED_RUNS):
            session.interpreter.runSessionWithCallBackInfo(session.session, before, after)
        return [replace(kernel, milliseconds=statistics.median(spent[name])) for name, kernel in kernels.items()]

    def describe(self) -> Mapping[str, str]:
        """Return versions and device, to be stored with every number."""
        self._check()
        return {"mnn": version("mnn"), **describe_host()}

    def _session(self, artefact: bytes, threads: int) -> MnnSession:
        mnn = self._import()
        options = {"backend": "CPU", "numThread": threads, "precision": "high"}
        options["memory"] = "low" if self.variant == "w8" else "normal"
        with scratch() as folder, stdout_to_stderr():
            path = folder / "model.mnn"  # it is read at once
            path.write_bytes(artefact)
            try:
                interpreter = mnn.Interpreter(str(path))
                return MnnSession(mnn, interpreter, interpreter.createSession(options))
            except Exception as error:  # which is all that it raises
                raise InfeasibleError("MNN cannot load the model: it is no .mnn file.", rung="build") from error

    def _check(self) -> None:
        """Check that the package is there, without importing it: it talks on stdout."""
        if find_spec("MNN") is None:
            self._import()

    def _import(self) -> Any:
        with stdout_to_stderr():
            return needed("MNN", runtime=self.name, extra="mnn")


VARIANTS = {variant: Mnn(variant) for variant in FLAGS}
