"""What one runtime does on this machine, tried in a process of its own: it may crash.

    python -m autocompress.evaluators.standalone.selftest DIRECTORY

reads ``request.json``, ``float.onnx``, ``int8.onnx`` and ``examples.npz``; it rewrites ``result.json`` after each step,
so that what was found before a crash is known.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AutocompressError, InfeasibleError, MissingRuntimeError
from ...studies.metric_units import share_shown
from ..parity import FLOAT_TOLERANCE, INTEGER_TOLERANCE, compare
from ..runtime import Arrays, Engine, Runtime, Source, low_precision
from ..runtimes import load
from ..subprocess_protocol import begin

RUNS = 15


class _Test:
    """The steps, and what they found so far."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self.folder, self.runtime = folder, runtime
        self.found: dict[str, Any] = {}
        with np.load(folder / "examples.npz") as examples:
            self.inputs, self.expected = examples["inputs"], examples["expected"]

    def note(self, **found: object) -> None:
        """Keep what was found, whatever happens next."""
        self.found |= found
        (self.folder / "result.json").write_text(json.dumps(self.found))

    def run(self, *, whole: bool) -> None:
        """Go as far as it goes."""
        self.note(step="import")
        self.note(environment=dict(self.runtime.describe()))
        if not whole:
            return
        self.note(step="float32")
        self._float()
        if 8 in self.runtime.capabilities.bits:
            self.note(step="INT8")
            self._int8()

    def _source(self, name: str, batch: int) -> Source:
        """Return a network; the module only where no ONNX file will do, as it brings torch."""
        module = None
        quantized = frozenset[str]()
        if self.runtime.capabilities.opset is None:
            from .sample_network import QUANTIZED, network  # noqa: PLC0415  # start-up time: torch is slow to import

            module = network()
            quantized = QUANTIZED if name == "int8" else quantized
        return Source(
            onnx=(self.folder / f"{name}.onnx").read_bytes(),
            module=module,
            quantized=quantized,
            examples=[self.inputs[:batch]],
            calibration=[[self.inputs]],
        )

    def _check(self, engine: Engine, name: str, tolerance: float) -> None:
        parity = compare([[self.expected]], [engine.infer([self.inputs])])
        if parity is None:
            raise InfeasibleError("Its outputs have another shape than PyTorch's.", rung="build")
        self.note(**{f"{name}_difference": parity.difference})
        if not parity.difference <= tolerance:
            raise InfeasibleError(
                f"Its outputs differ from PyTorch's by {share_shown(parity.difference)} of their range.", rung="build"
            )

    def _float(self) -> None:
        times = {}
        tolerance = INTEGER_TOLERANCE if self.runtime.capabilities.rounds else FLOAT_TOLERANCE
        for batch in (len(self.inputs), 1):
            artefact = self.runtime.convert(self._source("float", batch))
            with self.runtime.build(artefact, threads=1) as engine:
                if batch > 1:
                    self._check(engine, "float", tolerance)
                times[batch] = _fastest_ms(engine, [self.inputs[:batch]])
        self.note(batch_times_ms=list(times.values()))
        if self.runtime.capabilities.device == "cpu" and not times[len(self.inputs)] > times[1]:
            raise InfeasibleError(f"It takes no longer for {len(self.inputs)} examples than for one.", rung="latency")

    def _int8(self) -> None:
        artefact = self.runtime.convert(self._source("int8", len(self.inputs)))
        with self.runtime.build(artefact, threads=1) as engine:
            self._check(engine, "int8", INTEGER_TOLERANCE)
        kernels = self.runtime.kernels(artefact, [self.inputs])
        self.note(int8_share=low_precision(kernels) if any(kernel.macs for kernel in kernels) else None)


def _fastest_ms(engine: Engine, inputs: Arrays) -> float:
    """Return the shortest of some runs: enough to tell sixteen examples from one."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        engine.infer(inputs)
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def main(folder: Path) -> None:
    """Serve the request of a folder."""
    begin()
    request = json.loads((folder / "request.json").read_text())
    test = _Test(folder, load(request["runtime"]))
    try:
        test.run(whole=request["whole"])
    except MissingRuntimeError as error:
        test.note(missing=str(error))
    except AutocompressError as error:
        test.note(reason=str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
