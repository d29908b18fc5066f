"""The driver of `fakecuda.c`: how it is compiled, and what tests ask of it."""

from __future__ import annotations

import ctypes
import subprocess
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("fakecuda.c")
NVML = Path(__file__).with_name("fakenvml.c")

COUNTED = ("buffers", "streams", "events", "graphs", "bytes", "contexts")
"""What the driver counts, in the order of its `fake_live`."""


def compile_libraries(folder: Path) -> None:
    """Compile the driver and NVML into a folder; what pycuda only links against is there, and fails."""
    unused = "".join(f"int {name}(void) {{ return NOT_FOUND; }}\n" for name in _missing())
    for name, code in {"libcuda.so.1": SOURCE.read_text() + unused, "libnvidia-ml.so.1": NVML.read_text()}.items():
        source = folder / f"{name}.c"
        source.write_text(code)
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source), "-ldl"]
        subprocess.run(command, check=True)


def _missing() -> list[str]:
    """Return the functions that pycuda needs and `fakecuda.c` lacks."""
    spec = find_spec("pycuda")
    if spec is None or spec.origin is None:
        return []
    (extension,) = Path(spec.origin).parent.glob("_driver*.so")
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(extension)], check=True, capture_output=True, text=True
    ).stdout.split()
    source = SOURCE.read_text()
    return sorted({name for name in symbols if name.startswith("cu") and f" {name}(" not in source})


class FakeDriver:
    """The driver that this process has loaded."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.fake_live.restype = ctypes.c_long

    def fail(self, function: str, status: int, after: int = 0) -> None:
        """Have a function fail from its call number `after` on; a status of 0 has none fail."""
        self.library.fake_fail(function.encode(), status, after)

    def work(self, stream: int, nanoseconds: int, to: int = 0, source: int = 0, size: int = 0) -> None:
        """Enqueue work that copies some bytes on the device, as a very small network would."""
        self.library.fake_work(
            ctypes.c_void_p(stream),
            ctypes.c_int64(nanoseconds),
            ctypes.c_void_p(to),
            ctypes.c_void_p(source),
            ctypes.c_size_t(size),
        )

    def pointer(self, stream: int) -> ctypes.c_void_p:
        """Return a stream as an argument."""
        return ctypes.c_void_p(stream)

    def capturing(self, stream: int) -> bool:
        """Tell whether a stream is in capture mode."""
        return bool(self.library.fake_capturing(ctypes.c_void_p(stream)))

    def live(self) -> dict[str, int]:
        """Return what has not been freed."""
        return {name: n for i, name in enumerate(COUNTED) if (n := self.library.fake_live(i))}
