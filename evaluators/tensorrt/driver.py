"""What the GPU's driver tells without a context, and without any package."""

from __future__ import annotations

import ctypes
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Gpu:
    """The first GPU that this process may see.

    Attributes:
        name: as its maker calls it.
        identity: its UUID, which stays the same in whatever order GPUs are counted.
        capability: its compute capability, ``8.6``.
        driver: the newest CUDA that its driver serves, ``13.0``.

    """

    name: str
    identity: str
    capability: str
    driver: str

    def describe(self) -> Mapping[str, str]:
        """Return it as it is stored with every number."""
        return {
            "gpu": self.name,
            "gpu_uuid": self.identity,
            "compute_capability": self.capability,
            "cuda_driver": self.driver,
        }


@cache
def library() -> ctypes.CDLL:
    """Return the driver's library; looked up once, as graphs are launched through it.

    Raises:
        OSError: no driver is installed.

    """
    return ctypes.CDLL("libcuda.so.1")


def call(function: str, *arguments: object) -> None:
    """Call a function of the driver.

    Raises:
        OSError: it failed, with what the driver says.

    """
    driver = library()
    status = getattr(driver, function)(*arguments)
    if status:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        raise OSError(f"{function}: {(text.value or b'unknown error').decode()} ({status})")


def first_gpu() -> Gpu:
    """Return the GPU on which everything runs.

    Raises:
        OSError: there is no driver, or no GPU.

    """
    version, device, major, minor = (ctypes.c_int() for _ in range(4))
    name, identity = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    call("cuInit", 0)
    call("cuDriverGetVersion", ctypes.byref(version))
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDeviceGetName", name, len(name), device)
    call("cuDeviceGetUuid_v2", identity, device)
    call("cuDeviceComputeCapability", ctypes.byref(major), ctypes.byref(minor), device)
    return Gpu(
        name=name.value.decode(),
        identity=str(uuid.UUID(bytes=identity.raw)),
        capability=f"{major.value}.{minor.value}",
        driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )
