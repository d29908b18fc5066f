"""Keeps the large parts of a task in memory once per node, for all its workers.

A task is pickled without the contents of its tensors and arrays. The first worker on each node writes these to a file,
and all of them map it privately: data that is only read exists once, in the system's cache; a page that a worker writes
to becomes its own. So a loader, a loss or a metric may do anything, and no worker sees the changes of another. (Ray's
own shared memory is unsuitable: torch ignores that it is read-only, and writes into all workers' data.)
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import pickle
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import numpy as np

from ...errors import UsageError
from ...evaluators.scratch import private_folder, sweep

SHARED_BYTES = 1 << 16
"""Smaller buffers are copied for each worker, because a mapped buffer has a cost of its own."""

ALIGNMENT = 64
"""Alignment in bytes that suits vector instructions."""


@dataclass(frozen=True)
class Packed:
    """An object without its large buffers, their lengths, and a name that no other object has.

    (The names that Ray gives are the same in each new cluster.)
    """

    content: bytes
    lengths: tuple[int, ...]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


class _Storage:
    """The bytes of one or more tensors, once."""

    def __init__(self, tensor: Any) -> None:
        import torch

        self.content: Any = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Keeps large buffers out of the pickle; tensors of one storage, such as views, share a buffer."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._inside)
        self.buffers: list[memoryview] = []
        self._storages: dict[int, _Storage] = {}  # which keeps them alive, so that no address is used twice

    def _inside(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < SHARED_BYTES:
            return True
        self.buffers.append(raw)
        return False

    def reducer_override(self, obj: Any) -> Any:
        """Return how to rebuild a large tensor; everything else is left to cloudpickle."""
        if isinstance(obj, _Storage):
            return _storage, (pickle.PickleBuffer(obj.content),)
        if _shareable(obj):
            storage = self._storages.setdefault(obj.untyped_storage().data_ptr(), _Storage(obj))
            return _tensor, (storage, obj.dtype, obj.storage_offset(), tuple(obj.shape), obj.stride())
        return super().reducer_override(obj)


def _shareable(obj: object) -> bool:
    """Return whether an object is a large plain tensor; a parameter's ``data`` is one."""
    import torch

    return (
        type(obj) is torch.Tensor
        and obj.device.type == "cpu"
        and obj.layout is torch.strided
        and not (obj.requires_grad or obj.is_quantized or obj.is_conj() or obj.is_neg() or vars(obj))
        and obj.untyped_storage().nbytes() >= SHARED_BYTES
    )


def _storage(buffer: Any) -> Any:
    import torch

    return torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()


def _tensor(storage: Any, dtype: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Any:
    import torch

    return torch.empty(0, dtype=dtype).set_(storage, offset, shape, stride)


def packed(work: object) -> tuple[Packed, list[memoryview]]:
    """Return an object as bytes, and its large buffers, which are not copied.

    Raises:
        Exception: of any kind, if something cannot be pickled.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(work)
    return Packed(file.getvalue(), tuple(buffer.nbytes for buffer in pickler.buffers)), pickler.buffers


def unpacked(work: Packed, buffers: Sequence[Any]) -> Any:
    """Return the object, made around its buffers, which should be writable."""
    return pickle.loads(work.content, buffers=buffers)


def copies(buffers: Sequence[Any]) -> list[memoryview]:
    """Return writable copies of buffers."""
    return [memoryview(bytearray(buffer)) for buffer in buffers]


def mapped(key: str, lengths: Sequence[int], fetch: Callable[[], Sequence[Any]]) -> list[memoryview]:
    """Return buffers that all processes of this node share until one of them writes.

    Args:
        key: the same in all processes that share, and only there.
        lengths: lengths of the buffers, in bytes.
        fetch: returns the contents; called if no process of this node has written them to the file yet.
    """
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + -(-length // ALIGNMENT) * ALIGNMENT)
    if not lengths:
        return []
    try:
        whole = memoryview(_map(key, starts[-1], fetch))
    except (OSError, UsageError):  # no space, no folder of one's own, no locks: then each process has its own
        return copies(fetch())
    return [whole[start : start + length] for start, length in zip(starts, lengths, strict=False)]


def _map(key: str, size: int, fetch: Callable[[], Sequence[Any]]) -> mmap.mmap:
    """Map a file, after writing it if that was not completed; it is locked while it is mapped."""
    with private_folder() as (_, folder):
        sweep(folder, keep=key)
        handle = os.open(key, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    with open(handle, "a+b") as file:  # noqa: PTH123  it has no path that could be believed
        fcntl.flock(file, fcntl.LOCK_SH)
        if os.fstat(file.fileno()).st_size != size:
            fcntl.flock(file, fcntl.LOCK_EX)  # nobody maps what is not whole, so this waits for writers only
        if os.fstat(file.fileno()).st_size != size:
            file.truncate(0)
            for buffer in fetch():
                file.write(buffer)
                file.write(bytes(-memoryview(buffer).nbytes % ALIGNMENT))
            file.flush()
        fcntl.flock(file, fcntl.LOCK_SH)
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)  # holds the file, and so the lock


def forget(key: str) -> None:
    """Delete the file behind the shared buffers on this node; processes that have mapped it keep it."""
    with suppress(FileNotFoundError, UsageError), private_folder() as (_, folder):
        os.unlink(key, dir_fd=folder)


def arrays(buffers: Sequence[memoryview]) -> list[np.ndarray[Any, Any]]:
    """Return buffers as arrays of bytes, which Ray's object store passes without a copy."""
    return [np.frombuffer(buffer, np.uint8) for buffer in buffers]
