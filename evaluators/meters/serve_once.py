"""Serves one model briefly in a fresh process that loads only its runtime.

`serve_once` starts such a process and returns its results. The process itself is

    python -m autocompress.evaluators.meters.serve_once DIRECTORY

It reads ``request.json``, ``model`` and ``inputs.npz``; it writes ``outputs.npz`` and ``result.json``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError
from ..runtime import Arrays
from ..runtimes import load
from ..scratch import scratch
from ..subprocess_protocol import answer, ask
from .energy import Energy, counter_of, spend

STATUS = Path("/proc/self/status")


@dataclass(frozen=True, kw_only=True, eq=False)
class Serving:
    """The results of a process that served one model.

    Attributes:
        outputs: one array for each output, of each batch.
        build_s: seconds to build the engine.
        peak_bytes: peak memory of the process, including the interpreter and the runtime's libraries; None if unknown.
        macs: multiply-accumulates of one run by bit-width; empty if the runtime does not report them.
        energy: for one run; None unless requested.
        environment: versions and device.

    """

    outputs: tuple[Arrays, ...]
    build_s: float
    peak_bytes: int | None
    macs: Mapping[int, int] = field(default_factory=dict)
    energy: Energy | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def low_precision(self) -> float | None:
        """The share of multiply-accumulates below 32 bits; None if the runtime does not report it."""
        total = sum(self.macs.values())
        return sum(count for bits, count in self.macs.items() if bits < 32) / total if total else None


def serve_once(
    runtime: str,
    artefact: bytes,
    batches: Sequence[Arrays],
    *,
    threads: int = 1,
    timeout_s: float | None = None,
    kernels: bool = False,
    energy: bool = False,
) -> Serving:
    """Serve some batches in a fresh process.

    Args:
        runtime: name of the runtime.
        artefact: a file that it reads.
        batches: batches of inputs, one array for each input.
        threads: number of threads.
        timeout_s: seconds after which it fails.
        kernels: whether to return the bit-widths of its kernels.
        energy: whether to run some seconds longer and measure the energy.

    Raises:
        InfeasibleError: the runtime refuses the model, crashes, or takes too long.

    """
    request = {"runtime": runtime, "threads": threads, "kernels": kernels, "energy": energy}
    with scratch() as folder:
        (folder / "model").write_bytes(artefact)
        _save(folder / "inputs.npz", batches)
        result = ask(__name__, folder, request, threads=threads, timeout_s=timeout_s, doing="tried", rung="build")
        outputs = _read(folder / "outputs.npz")
    macs = {int(bits): count for bits, count in result.pop("macs").items()}
    spent = result.pop("energy")
    return Serving(outputs=outputs, macs=macs, energy=Energy(**spent) if spent else None, **result)


def _save(path: Path, batches: Sequence[Arrays]) -> None:
    named = {f"{i}_{j}": array for i, batch in enumerate(batches) for j, array in enumerate(batch)}
    np.savez(path, **named)  # type: ignore[arg-type]  # its flag `allow_pickle` is no array


def _read(path: Path) -> tuple[Arrays, ...]:
    batches: dict[int, list[NDArray[np.generic]]] = {}
    with np.load(path) as arrays:
        for name in arrays.files:
            batches.setdefault(int(name.partition("_")[0]), []).append(arrays[name])
    return tuple(batches.values())


def _serve(folder: Path, request: Mapping[str, Any]) -> dict[str, object]:
    """Serve the request in a folder; return the fields of its ``result.json``."""
    server, artefact, batches = load(request["runtime"]), (folder / "model").read_bytes(), _read(folder / "inputs.npz")
    environment = dict(server.describe())  # which imports its package, before the clock starts
    started = time.perf_counter()
    with server.build(artefact, threads=request["threads"]) as engine:
        build_s = time.perf_counter() - started
        _save(folder / "outputs.npz", [engine.infer(batch) for batch in batches])
        peak = peak_so_far()  # before anything that only we want to know
        energy = None
        if request["energy"]:
            energy = asdict(spend(lambda: engine.infer(batches[0]), counter_of(server.capabilities.device)))
    macs: dict[int, int] = {}
    if request["kernels"]:
        with suppress(InfeasibleError):
            for kernel in server.kernels(artefact, batches[0]):
                macs[kernel.bits] = macs.get(kernel.bits, 0) + kernel.macs
    return {
        "build_s": build_s,
        "peak_bytes": peak,
        "macs": {bits: count for bits, count in macs.items() if count},
        "energy": energy,
        "environment": environment,
    }


def peak_so_far() -> int | None:
    """Return this process's peak memory in bytes; None if the system does not report it."""
    with suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


if __name__ == "__main__":
    answer(_serve)
