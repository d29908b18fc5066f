"""The GPU by way of NVIDIA's cuda-bindings."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
from cuda.bindings import driver
from numpy.typing import NDArray

from .device import NON_BLOCKING, Device

DEFAULT = 0
"""Flags of events and graphs that are nothing special."""


class CudaError(Exception):
    """A function of the driver failed."""


def _call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """Return what a function of the driver returns beside its status."""
    status, *values = function(*arguments)
    if status != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(status)
        raise CudaError(f"{function.__name__}: {(text or b'unknown error').decode()} ({int(status)})")
    return values[0] if values else None


class CudaBindingsDevice(Device):
    """The first visible GPU."""

    error = CudaError
    binding = f"cuda-bindings {version('cuda-bindings')}"

    def __init__(self) -> None:
        super().__init__()
        _call(driver.cuInit, DEFAULT)
        self._device = _call(driver.cuDeviceGet, 0)
        _call(driver.cuCtxPushCurrent, _call(driver.cuDevicePrimaryCtxRetain, self._device))
        self._open = True
        try:
            self._stream = _call(driver.cuStreamCreate, NON_BLOCKING)
        except CudaError:
            self._leave()
            raise
        self.handle = int(self._stream)

    def alloc(self, size: int) -> int:
        """See `Device.alloc`."""
        address = _call(driver.cuMemAlloc, size)
        self._buffers.append(address)
        _call(driver.cuMemsetD8Async, address, 0, size, self._stream)
        return int(address)

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """See `Device.upload`."""
        _call(driver.cuMemcpyHtoDAsync, address, array.ctypes.data, array.nbytes, self._stream)

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """See `Device.download`."""
        _call(driver.cuMemcpyDtoHAsync, array.ctypes.data, address, array.nbytes, self._stream)
        self.sync()

    def sync(self) -> None:
        """See `Device.sync`."""
        _call(driver.cuStreamSynchronize, self._stream)

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            while self._events:
                _call(driver.cuEventDestroy, self._events.pop())
            _call(driver.cuStreamDestroy, self._stream)
        finally:
            self._leave()

    def _leave(self) -> None:
        driver.cuCtxPopCurrent()
        driver.cuDevicePrimaryCtxRelease(self._device)

    def _free(self, buffer: Any) -> None:
        _call(driver.cuMemFree, buffer)

    def _new_event(self) -> Any:
        return _call(driver.cuEventCreate, DEFAULT)

    def _record(self, event: Any) -> None:
        _call(driver.cuEventRecord, event, self._stream)

    def _elapsed_ms(self, before: Any, after: Any) -> float:
        return float(_call(driver.cuEventElapsedTime, before, after))

    def _begin_capture(self) -> None:
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _call(driver.cuStreamBeginCapture, self._stream, mode)

    def _end_capture(self) -> Any:
        return _call(driver.cuStreamEndCapture, self._stream)

    def _instantiate(self, graph: Any) -> Any:
        return _call(driver.cuGraphInstantiate, graph, DEFAULT)

    def _launch(self, executable: Any) -> None:
        _call(driver.cuGraphLaunch, executable, self._stream)

    def _destroy_graph(self, graph: Any) -> None:
        if int(graph):  # none where the capture was broken
            _call(driver.cuGraphDestroy, graph)

    def _destroy_executable(self, executable: Any) -> None:
        _call(driver.cuGraphExecDestroy, executable)
