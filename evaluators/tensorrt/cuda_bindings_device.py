"""The GPU by way of NVIDIA's cuda-bindings."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import NON_BLOCKING, Device

DEFAULT = 0
"""Flags of events and graphs that are nothing special."""


class CudaError(Exception):
    """A function of the driver failed."""


class CudaBindingsDevice(Device):
    """The first visible GPU.

    Raises:
        ImportError: cuda-bindings is not installed.
        OSError: the GPU refuses.
    """

    error = CudaError

    def __init__(self) -> None:
        super().__init__()
        from cuda.bindings import driver

        self._driver: Any = driver
        self.binding = f"cuda-bindings {version('cuda-bindings')}"
        self._open = False
        try:
            self._call("cuInit", DEFAULT)
            self._device = self._call("cuDeviceGet", 0)
            self._call("cuCtxPushCurrent", self._call("cuDevicePrimaryCtxRetain", self._device))
            self._open = True
            self._stream = self._call("cuStreamCreate", NON_BLOCKING)
        except CudaError as error:
            self._leave()
            raise OSError(str(error)) from error
        self.handle = int(self._stream)

    def alloc(self, size: int) -> int:
        """See `Device.alloc`."""
        address = self._call("cuMemAlloc", size)
        self._buffers.append(address)
        self._call("cuMemsetD8Async", address, 0, size, self._stream)
        return int(address)

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """See `Device.upload`."""
        self._call("cuMemcpyHtoDAsync", address, array.ctypes.data, array.nbytes, self._stream)

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """See `Device.download`."""
        self._call("cuMemcpyDtoHAsync", array.ctypes.data, address, array.nbytes, self._stream)
        self.sync()

    def sync(self) -> None:
        """See `Device.sync`."""
        self._call("cuStreamSynchronize", self._stream)

    def _close(self) -> None:
        try:
            while self._events:
                self._call("cuEventDestroy", self._events.pop())
            if self._open:
                self._call("cuStreamDestroy", self._stream)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Let go of the context, once."""
        if self._open:
            self._open = False
            self._driver.cuCtxPopCurrent()
            self._driver.cuDevicePrimaryCtxRelease(self._device)

    def _free(self, buffer: Any) -> None:
        self._call("cuMemFree", buffer)

    def _new_event(self) -> Any:
        return self._call("cuEventCreate", DEFAULT)

    def _record(self, event: Any) -> None:
        self._call("cuEventRecord", event, self._stream)

    def _elapsed_ms(self, before: Any, after: Any) -> float:
        return float(self._call("cuEventElapsedTime", before, after))

    def _begin_capture(self) -> None:
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)

    def _end_capture(self) -> Any:
        return self._call("cuStreamEndCapture", self._stream)

    def _instantiate(self, graph: Any) -> Any:
        return self._call("cuGraphInstantiate", graph, DEFAULT)

    def _launch(self, executable: Any) -> None:
        self._call("cuGraphLaunch", executable, self._stream)

    def _destroy_graph(self, graph: Any) -> None:
        if int(graph):  # none where the capture was broken
            self._call("cuGraphDestroy", graph)

    def _destroy_executable(self, executable: Any) -> None:
        self._call("cuGraphExecDestroy", executable)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Return what a function of the driver returns beside its status."""
        status, *values = getattr(self._driver, function)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            _, text = self._driver.cuGetErrorString(status)
            raise CudaError(f"{function}: {(text or b'unknown error').decode()} ({int(status)})")
        return values[0] if values else None
