"""The GPU by way of pycuda, which needs the driver's library to be imported."""

from __future__ import annotations

import atexit
import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import NON_BLOCKING, Device
from .driver import call

THREAD_LOCAL = 1
"""CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may do as they please meanwhile."""


@cache
def _primary_context() -> Any:
    """Return the GPU's primary context, current from now on: pycuda does not leave it as it was when it is let go."""
    import pycuda.driver as driver

    driver.init()
    context = driver.Device(0).retain_primary_context()
    context.push()
    atexit.register(context.pop)
    return context


class PycudaDevice(Device):
    """The first visible GPU; pycuda has no graphs, so that those are asked of the driver itself.

    Raises:
        ImportError: pycuda is not installed, or finds no driver.
        OSError: the GPU refuses.
    """

    def __init__(self) -> None:
        super().__init__()
        import pycuda
        import pycuda.driver as driver

        self._driver: Any = driver
        self.error = driver.Error
        self.binding = f"pycuda {'.'.join(map(str, pycuda.VERSION))}"
        try:
            _primary_context()
            self._stream: Any = driver.Stream(NON_BLOCKING)
        except driver.Error as error:
            raise OSError(str(error)) from error
        self.handle = int(self._stream.handle)

    def alloc(self, size: int) -> int:
        """See `Device.alloc`."""
        buffer = self._driver.mem_alloc(size)
        self._buffers.append(buffer)
        self._driver.memset_d8_async(int(buffer), 0, size, self._stream)
        return int(buffer)

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """See `Device.upload`."""
        self._driver.memcpy_htod_async(address, array, self._stream)

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """See `Device.download`."""
        self._driver.memcpy_dtoh_async(array, address, self._stream)
        self.sync()

    def sync(self) -> None:
        """See `Device.sync`."""
        self._stream.synchronize()

    def _close(self) -> None:
        self._events.clear()
        self._stream = None

    def _free(self, buffer: Any) -> None:
        buffer.free()

    def _new_event(self) -> Any:
        return self._driver.Event()

    def _record(self, event: Any) -> None:
        event.record(self._stream)

    def _elapsed_ms(self, before: Any, after: Any) -> float:
        return float(after.time_since(before))

    def _begin_capture(self) -> None:
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(self.handle), THREAD_LOCAL)

    def _end_capture(self) -> ctypes.c_void_p:
        graph = ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(self.handle), ctypes.byref(graph))
        return graph

    def _instantiate(self, graph: ctypes.c_void_p) -> ctypes.c_void_p:
        executable = ctypes.c_void_p()
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        return executable

    def _launch(self, executable: ctypes.c_void_p) -> None:
        self._call("cuGraphLaunch", executable, ctypes.c_void_p(self.handle))

    def _destroy_graph(self, graph: ctypes.c_void_p) -> None:
        if graph:  # none where the capture was broken
            self._call("cuGraphDestroy", graph)

    def _destroy_executable(self, executable: ctypes.c_void_p) -> None:
        self._call("cuGraphExecDestroy", executable)

    def _call(self, function: str, *arguments: object) -> None:
        try:
            call(function, *arguments)
        except OSError as error:
            raise self._driver.Error(str(error)) from error
