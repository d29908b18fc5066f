"""Opens the GPU through whichever binding is installed."""

from __future__ import annotations

from ...errors import MissingRuntimeError
from .device import Device


def open_device(runtime: str = "tensorrt") -> tuple[Device, str]:
    """Return the GPU, and by which package and why.

    Raises:
        MissingRuntimeError: neither package can be imported, or the GPU refuses.

    """
    from .cuda_bindings_device import CudaBindingsDevice
    from .pycuda_device import PycudaDevice

    missing = []
    try:
        for package, kind in (("pycuda", PycudaDevice), ("cuda-bindings", CudaBindingsDevice)):
            try:
                device = kind()
            except ImportError as error:
                missing.append(f"{package} cannot be imported ({error})")
            else:
                return device, ", as ".join((device.binding, *missing))
    except OSError as error:
        raise MissingRuntimeError(
            f"--runtime {runtime} needs a GPU that it may use; this one refuses ({error}): free it of other processes."
        ) from error
    raise MissingRuntimeError(
        f"--runtime {runtime} needs pycuda or cuda-bindings; {', and '.join(missing)}: pip install cuda-bindings"
    )
