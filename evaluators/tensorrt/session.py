"""One built engine on the GPU: its buffers, its CUDA graph, and its times on the GPU's own clock."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError, gist
from ..runtime import Arrays, Kernel
from .device import Device, Timed
from .layers import kernels, median_by_layer, sparse
from .log import first_error, fresh, logger
from .shapes import Interface, Shape

WARM_UP_S = 0.2
"""Before the first times of an engine, as trtexec does."""

ENQUEUE_BOUND = 0.8
"""Where handing work over takes this share of the work's own time, the host may be what is timed."""

PROFILED_RUNS = 20

NO_INTERFACE = Interface()
"""Of an engine without a model: its own order is all that is known."""

DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
"""NumPy's names for what a network may read and return."""


class EnqueueError(Exception):
    """TensorRT did not take the work."""


class TensorRtSession:
    """An engine that can run.

    Args:
        trt: the module `tensorrt`.
        device: the GPU.
        plan: the serialised engine.
        interface: of the model; an engine may order inputs and outputs otherwise, and drop inputs that it does not use.
        warm_up_s: seconds of runs before the first that are timed.

    Raises:
        InfeasibleError: TensorRT or the GPU refuses it.

    """

    def __init__(
        self,
        trt: Any,
        device: Device,
        plan: bytes,
        *,
        interface: Interface = NO_INTERFACE,
        warm_up_s: float = WARM_UP_S,
    ) -> None:
        self.trt = trt
        self.device = device
        self.warm_up_s = warm_up_s
        self.mode = ""
        self.last: Timed | None = None
        log = fresh(trt)
        self._runtime = trt.Runtime(logger(trt))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise InfeasibleError(f"TensorRT cannot load the engine: {first_error(log)}.", rung="build")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise InfeasibleError(
                f"TensorRT cannot set the engine up in the GPU's memory: {first_error(log)}.", rung="build"
            )
        self._step: Callable[[], None] = self._enqueue
        self._bound: tuple[Shape, ...] | None = None
        self._addresses: dict[str, int] = {}
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        reads = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.given = list(interface.inputs) or [name for name in names if reads[name]]
        self.inputs = [name for name in self.given if name in reads]
        self.outputs = list(interface.outputs) or [name for name in names if not reads[name]]

    def close(self) -> None:
        """Have TensorRT free what it holds on the GPU; the device, with the buffers, is its owner's to close."""
        self._context = self._engine = self._runtime = None

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model, from and to the host's memory; batches that the engine does not serve are split and filled up.

        Raises:
            InfeasibleError: the GPU failed, or the engine does not serve such inputs.

        """
        inputs = self._used(inputs)
        least, most = self._batches()
        batch = len(inputs[0])
        parts = []
        with self._reasons("run"):
            for start in range(0, batch, most):
                part = [x[start : start + most] for x in inputs]
                count = len(part[0])
                parts.append([y[:count] for y in self._infer([_filled(x, least) for x in part])])
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def device_ns(self, inputs: Arrays, runs: int) -> list[int]:
        """Return the nanoseconds of each of some runs on inputs that are on the device already, several in flight.

        Raises:
            InfeasibleError: the GPU failed, or the engine does not serve such inputs.

        """
        inputs = self._used(inputs)
        with self._reasons("timed", rung="latency"):
            is_new = self._bind(inputs)
            self._upload(inputs)
            end = time.perf_counter() + (self.warm_up_s if is_new else 0.0)
            while time.perf_counter() < end:
                self.device.time_batch(self._step, runs)
            self.last = self.device.time_batch(self._step, runs)
        return [round(ms * 1e6) for ms in self.last.device_ms]

    def conditions(self) -> Mapping[str, str]:
        """Return how work was given to the device: times of different modes cannot be compared."""
        told = {"gpu_mode": self.mode, "sparse_layers": str(len(sparse(self._report())))}
        if self.last is not None:
            handed = statistics.median(self.last.host_ms)
            bound = handed > ENQUEUE_BOUND * statistics.median(self.last.device_ms)
            told |= {"enqueue_ms": f"{handed:.4f}", "enqueue_bound": "yes" if bound else "no"}
        return told

    def kernels(self, inputs: Arrays) -> list[Kernel]:
        """Return the engine's layers, timed in a pass of their own as TensorRT's profiler slows it down.

        Raises:
            InfeasibleError: the GPU failed, or the engine does not serve such inputs.

        """
        inputs = self._used(inputs)
        with self._reasons("profiled"):
            self._bind(inputs)
            self._upload(inputs)
            profiler = _profiler(self.trt)
            self._context.profiler = profiler
            for _ in range(PROFILED_RUNS):
                self._enqueue()
                self.device.sync()
        return kernels(self._report(), median_by_layer(profiler.times))

    def _used(self, inputs: Arrays) -> Arrays:
        """Return the inputs that the engine reads."""
        return [x for name, x in zip(self.given, inputs, strict=True) if name in self.inputs]

    def _batches(self) -> tuple[int, int]:
        """Return the smallest and the largest batch that the engine serves."""
        least, most = [1], [2**31]
        for name in self.inputs:
            shape = tuple(self._engine.get_tensor_shape(name))
            smallest, largest = shape, shape
            if -1 in shape:
                smallest, _, largest = map(tuple, self._engine.get_tensor_profile_shape(name, 0))
            if shape:
                least.append(smallest[0])
                most.append(largest[0])
        return max(least), min(most)

    def _infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        self._bind(inputs)
        self._upload(inputs)
        self._step()
        outputs = []
        for name in self.outputs:
            output = np.empty(tuple(self._context.get_tensor_shape(name)), self._dtype(name))
            self.device.download(output, self._addresses[name])
            outputs.append(output)
        return outputs

    def _upload(self, inputs: Arrays) -> None:
        for name, x in zip(self.inputs, inputs, strict=True):
            self.device.upload(self._addresses[name], np.ascontiguousarray(x, self._dtype(name)))

    def _bind(self, inputs: Arrays) -> bool:
        """Make buffers for inputs of these shapes and capture the work; return whether that was to be done."""
        shapes = tuple(x.shape for x in inputs)
        if shapes == self._bound:
            return False
        self._bound = None
        self.device.release()
        self._set_shapes(dict(zip(self.inputs, shapes, strict=True)))
        for name in (*self.inputs, *self.outputs):
            self._addresses[name] = self.device.alloc(self._size(name))
            if not self._context.set_tensor_address(name, self._addresses[name]):
                raise InfeasibleError(f"TensorRT does not take a buffer for {name!r}.", rung="build")
        self._enqueue()  # TensorRT sets some things up in its first run, which cannot be captured
        self.device.sync()
        self._step, self.mode = self._captured()
        self._bound = shapes
        return True

    def _set_shapes(self, shapes: Mapping[str, Shape]) -> None:
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                served = [tuple(limit) for limit in self._engine.get_tensor_profile_shape(name, 0)]
                raise InfeasibleError(
                    f"The engine does not serve an input {name!r} of shape {shape}, but from {served[0]} to "
                    f"{served[-1]}: build it for this shape.",
                    rung="build",
                )
        missing = self._context.infer_shapes()
        if missing:
            raise InfeasibleError(f"TensorRT lacks the shapes of {', '.join(missing)}.", rung="build")

    def _size(self, name: str) -> int:
        """Return the bytes of a tensor, at least one."""
        shape: Shape = tuple(self._context.get_tensor_shape(name))
        if -1 in shape:
            raise InfeasibleError(f"The shape of the output {name!r} depends on the inputs' values.", rung="build")
        size: int = max(1, math.prod(shape) * np.dtype(self._dtype(name)).itemsize)
        return size if name in self.inputs else max(size, int(self._context.get_max_output_size(name)))

    def _dtype(self, name: str) -> type[np.generic]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise InfeasibleError(
                f"The tensor {name!r} has the type {kind}, which NumPy lacks: cast it to a float in the model.",
                rung="build",
            )
        return DTYPES[kind]

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self.device.handle):
            raise EnqueueError(f"TensorRT did not run the engine ({first_error(logger(self.trt).lines)})")

    def _captured(self) -> tuple[Callable[[], None], str]:
        """Return what runs the model once, and how."""
        try:
            return self.device.capture(self._enqueue), "cuda-graph"
        except (self.device.error, EnqueueError) as error:
            return self._enqueue, f"enqueue, as it cannot be captured ({error})"

    def _report(self) -> str:
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context  # whose shapes it reports
        return str(inspector.get_engine_information(self.trt.LayerInformationFormat.JSON))

    @contextmanager
    def _reasons(self, doing: str, rung: str = "build") -> Iterator[None]:
        """Turn errors of the GPU into a reason; they do not pass, so that the process must be replaced."""
        try:
            yield
        except (self.device.error, EnqueueError) as error:
            raise InfeasibleError(f"The GPU failed while the model was {doing}: {gist(error)}.", rung=rung) from error


def _filled(x: NDArray[np.generic], least: int) -> NDArray[np.generic]:
    """Return a batch of at least so many, whose last one is repeated."""
    missing = least - len(x)
    return np.concatenate([x, np.repeat(x[-1:], missing, axis=0)]) if missing > 0 else x


def _profiler(trt: Any) -> Any:
    """Return what TensorRT tells the milliseconds of each layer."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the module is an argument
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.append((layer_name, ms))

    return Profiler()
