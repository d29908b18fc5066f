"""What is needed of a GPU: memory, one stream, its clock, and work that is captured once and launched often.

Two packages can give it. `pycuda` is tried first, then NVIDIA's `cuda-bindings`; both use the primary context, which
TensorRT's and PyTorch's own allocations are in.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not wait for the default one."""


@dataclass(frozen=True)
class Timed:
    """Some runs of the same work.

    Attributes:
        device_ms: milliseconds on the device's clock, one a run.
        host_ms: milliseconds that the host needed to hand the work over.

    """

    device_ms: list[float]
    host_ms: list[float]


class Device(ABC):
    """The first visible GPU by way of one package. Addresses and handles are integers.

    Attributes:
        binding: the package and its version.
        error: what its functions raise.
        handle: of the stream that all work is given to.

    """

    binding: str
    error: type[Exception]
    handle: int

    def __init__(self) -> None:
        self._buffers: list[Any] = []
        self._events: list[Any] = []
        self._graphs: list[Any] = []

    @abstractmethod
    def alloc(self, size: int) -> int:
        """Return the address of so many bytes, all zero."""

    @abstractmethod
    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """Copy a contiguous array to the device, before whatever is enqueued next."""

    @abstractmethod
    def download(self, array: NDArray[np.generic], address: int) -> None:
        """Fill a contiguous array from the device, after whatever was enqueued before."""

    @abstractmethod
    def sync(self) -> None:
        """Wait for all that was enqueued."""

    def time_batch(self, step: Callable[[], None], runs: int) -> Timed:
        """Time runs that follow each other without a gap, each between two events of its own.

        One more run comes first and is not counted: it meets an idle stream, so that its first event passes before
        the work has been handed over, and its time would include the launch.
        """
        while len(self._events) < 2 * (runs + 1):
            self._events.append(self._new_event())
        pairs = [(self._events[2 * i], self._events[2 * i + 1]) for i in range(runs + 1)]
        host_ms = []
        for before, after in pairs:
            self._record(before)
            start = time.perf_counter_ns()
            step()
            host_ms.append((time.perf_counter_ns() - start) / 1e6)
            self._record(after)
        self.sync()
        return Timed([self._elapsed_ms(*pair) for pair in pairs[1:]], host_ms[1:])

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what launches again all that some work enqueues; the stream leaves capture mode in any case.

        Raises:
            Exception: `error`, as the work cannot be captured, or whatever it raises.

        """
        self._begin_capture()
        try:
            work()
        except BaseException:
            with suppress(self.error):  # the first error is the one to tell
                self._destroy_graph(self._end_capture())
            raise
        graph = self._end_capture()
        try:
            executable = self._instantiate(graph)
        finally:
            self._destroy_graph(graph)
        self._graphs.append(executable)
        return lambda: self._launch(executable)

    def release(self) -> None:
        """Free all memory and all that was captured."""
        while self._graphs:
            self._destroy_executable(self._graphs.pop())
        while self._buffers:
            self._free(self._buffers.pop())

    def close(self) -> None:
        """Free everything; after an error that stays, as those of a GPU do, whatever can still be freed."""
        with suppress(self.error):
            self.release()
        with suppress(self.error):
            self._close()

    @abstractmethod
    def _close(self) -> None: ...

    @abstractmethod
    def _free(self, buffer: Any) -> None: ...
    @abstractmethod
    def _new_event(self) -> Any: ...
    @abstractmethod
    def _record(self, event: Any) -> None: ...
    @abstractmethod
    def _elapsed_ms(self, before: Any, after: Any) -> float: ...
    @abstractmethod
    def _begin_capture(self) -> None: ...
    @abstractmethod
    def _end_capture(self) -> Any: ...
    @abstractmethod
    def _instantiate(self, graph: Any) -> Any: ...
    @abstractmethod
    def _launch(self, executable: Any) -> None: ...
    @abstractmethod
    def _destroy_graph(self, graph: Any) -> None: ...
    @abstractmethod
    def _destroy_executable(self, executable: Any) -> None: ...
