"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError, MissingRuntimeError
from ...spaces.capabilities import Capabilities
from . import Arrays, Engine

PROFILED_RUNS = 20


@dataclass(frozen=True)
class Session:
    """An `Engine` over an `onnxruntime.InferenceSession`."""

    session: Any
    names: tuple[str, ...]

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model once; one array an input in the model's order, batch first."""
        outputs: list[NDArray[np.generic]] = self.session.run(None, dict(zip(self.names, inputs, strict=True)))
        return outputs


class OnnxRuntime:
    """Serves ONNX files with the CPU kernels of ONNX Runtime."""

    name = "onnxruntime"
    capabilities = Capabilities(runtime="onnxruntime", bits=(32, 8), channel_multiple=8)

    def flavour(self, canonical: bytes) -> bytes:
        """Make activations unsigned, which is what the CPU kernels fuse."""
        from ...compressors.flavours import unsigned_activations

        return unsigned_activations(canonical)

    @contextmanager
    def build(self, artefact: bytes, *, threads: int) -> Iterator[Engine]:
        """Build a session from an ONNX file.

        Raises:
            InfeasibleError: ONNX Runtime refuses the model.
        """
        ort = _import()
        try:
            session = ort.InferenceSession(artefact, _options(threads), providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base of their own
            first_line = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InfeasibleError(f"ONNX Runtime cannot load the model: {first_line}.", rung="build") from error
        yield Session(session, tuple(node.name for node in session.get_inputs()))

    def profile(self, artefact: bytes, inputs: Arrays) -> Mapping[str, float]:
        """Return milliseconds of each node by its name; of one that was fused, by the name of what it makes."""
        ort = _import()
        total: dict[str, float] = defaultdict(float)
        with tempfile.TemporaryDirectory(prefix="autocompress-") as folder:
            options = _options(1)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = ort.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])
            feeds = dict(zip((node.name for node in session.get_inputs()), inputs, strict=True))
            for _ in range(PROFILED_RUNS):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text())
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                total[event["name"].removesuffix("_kernel_time")] += event["dur"] / 1e3 / PROFILED_RUNS
        return dict(total)

    def describe(self) -> Mapping[str, str]:
        """Return versions and device, to be stored with every number."""
        return {
            "onnxruntime": str(_import().__version__),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpu": _cpu(),
            "cores": str(os.cpu_count()),
        }


def _options(threads: int) -> Any:
    options = _import().SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:  # a pool that spins after its run would slow the engine that is timed next
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _import() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntimeError(
            "--runtime onnxruntime needs the package onnxruntime, which is not installed: pip install onnxruntime"
        ) from error
    return onnxruntime


def _cpu() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


RUNTIME = OnnxRuntime()
