"""TensorRT: NVIDIA's engines, built for the GPU at hand and timed on its own clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ...errors import MissingRuntimeError
from ...spaces.capabilities import Capabilities
from ..runtime import Arrays, Kernel, Source
from ..tensorrt.driver import Gpu, first_gpu
from ..tensorrt.shapes import Interface, Shape, with_shapes
from . import cache_key, needed
from .host import describe_host

if TYPE_CHECKING:
    from ..tensorrt.build import Built
    from ..tensorrt.engine import TensorRtEngine

PLAN = b"trt"
"""What the second to the fourth byte of a serialised engine are; the first differs between kinds and versions."""


class TensorRt:
    """Serves ONNX files by engines that it builds and keeps, and engines as they are."""

    def __init__(self, variant: str = "", precision: Callable[[bytes], bytes] = lambda onnx: onnx) -> None:
        self.name = f"tensorrt:{variant}" if variant else "tensorrt"
        self.precision = precision
        self.capabilities = Capabilities(
            runtime=self.name,
            sparsity=("2:4",),
            reads=(".onnx", ".plan"),
            opset=22,
            threads=False,
            isolated=True,
            rounds=bool(variant),
            device="gpu",
        )

    def convert(self, source: Source) -> bytes:
        """Return the canonical file in the variant's precision, with a note of the shapes to build for."""
        artefact = self.precision(source.onnx)
        return with_shapes(artefact, source.examples) if source.examples else artefact

    @contextmanager
    def build(self, artefact: bytes, *, threads: int) -> Iterator[TensorRtEngine]:
        """Build an engine, at once if the file has its shapes, otherwise for the first inputs.

        Raises:
            InfeasibleError: TensorRT refuses the model.
            MissingRuntimeError: a package, a driver or a GPU is missing.
        """
        trt, gpu = self._import(), self._gpu()
        from ..tensorrt.engine import TensorRtEngine
        from ..tensorrt.open_device import open_device

        with ExitStack() as stack:
            device, binding = open_device(self.name)
            stack.callback(device.close)
            engine = TensorRtEngine(
                trt,
                device,
                interface=Interface.of(artefact),
                plan=lambda shapes: self._plan(trt, gpu, artefact, shapes),
                about={"gpu_uuid": gpu.identity, "cuda_binding": binding},
            )
            stack.callback(engine.close)
            engine.start()
            yield engine

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Return the engine's layers as its inspector and its profiler tell them."""
        with self.build(artefact, threads=1) as engine:
            return engine.kernels(inputs)

    def describe(self) -> Mapping[str, str]:
        """Return versions and device, to be stored with every number."""
        return {"tensorrt": str(self._import().__version__), **self._gpu().describe(), **describe_host()}

    def device_key(self) -> str:
        """Return the name of the lock on the GPU: one measurement at a time on each."""
        return f"gpu-{self._gpu().identity}"

    def _plan(self, trt: Any, gpu: Gpu, artefact: bytes, shapes: Mapping[str, Shape]) -> bytes:
        """Return the engine of a file: the file itself, the one that was kept, or a new one."""
        if artefact[1:4] == PLAN:
            return artefact
        from ..tensorrt.build import BuildOptions, build
        from ..tensorrt.cache import cached

        def built(timings: bytes) -> Built:
            options = BuildOptions(sparse=True, timing_cache=timings)
            return build(trt, artefact, shapes={name: (shape,) * 3 for name, shape in shapes.items()}, options=options)

        place = f"{trt.__version__} {gpu.name} {gpu.capability} {gpu.driver}"
        return cached(cache_key(self, artefact, shapes=shapes), place, built)

    def _import(self) -> Any:
        return needed("tensorrt", runtime=self.name, extra="tensorrt")

    def _gpu(self) -> Gpu:
        try:
            return first_gpu()
        except OSError as error:
            raise MissingRuntimeError(
                f"--runtime {self.name} needs an NVIDIA GPU and its driver; none can be used ({error}): "
                "install the driver, or choose another --runtime."
            ) from error


def _half(onnx: bytes) -> bytes:
    from ...compressors.onnx_files.number_formats import half

    return half(onnx)


def _float8(onnx: bytes) -> bytes:
    from ...compressors.onnx_files.number_formats import float8, half

    return half(float8(onnx))


def _int4_weights(onnx: bytes) -> bytes:
    from ...compressors.onnx_files.number_formats import half, int4_weights

    return half(int4_weights(onnx))


VARIANTS = {
    "": TensorRt(),
    "fp16": TensorRt("fp16", _half),  # what is not in INT8; so in the others
    "fp8": TensorRt("fp8", _float8),
    "int4": TensorRt("int4", _int4_weights),
}
