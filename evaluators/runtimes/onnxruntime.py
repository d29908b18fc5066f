"""ONNX Runtime: its CPU kernels, and its CUDA and TensorRT providers where they are present."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError, MissingRuntimeError, gist
from ...spaces.capabilities import SYMMETRIC, Capabilities, Integers
from ..runtime import Arrays, Engine, Kernel, Source
from ..scratch import scratch
from . import needed
from .host import describe_host

PROFILED_RUNS = 20

TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
"""Kinds of layers that it has no integer kernels for: it would restore their weights in each run."""

WIDTHS = {"int4": 4, "uint4": 4, "int8": 8, "uint8": 8, "float16": 16, "bfloat16": 16}
"""Bits of the types that its profiler names; all others have 32."""

RECURRENT = ("LSTM", "GRU", "DynamicQuantizeLSTM")
"""Operations that run over the steps of sequences, which are their inputs' first dimension."""


@dataclass(frozen=True)
class OnnxRuntimeSession:
    """An `Engine` over an `onnxruntime.InferenceSession`."""

    session: Any
    names: tuple[str, ...]

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model once; one array an input in the model's order, batch first."""
        outputs: list[NDArray[np.generic]] = self.session.run(None, dict(zip(self.names, inputs, strict=True)))
        return outputs


class OnnxRuntime:
    """Serves ONNX files with one of ONNX Runtime's execution providers; what it cannot run falls to the CPU's."""

    def __init__(self, variant: str = "", provider: str = "CPUExecutionProvider") -> None:
        self.name = f"onnxruntime:{variant}" if variant else "onnxruntime"
        self.provider = provider
        self.capabilities = Capabilities(
            runtime=self.name,
            integers=SYMMETRIC if variant else Integers(asymmetric=True, narrow=True),
            float_kinds=TRANSPOSED,
            weight_bits=() if variant else (4,),
            device="gpu" if variant else "cpu",
        )

    def convert(self, source: Source) -> bytes:
        """Make activations unsigned and functions integer, as the CPU kernels fuse; a GPU takes the canonical file."""
        from ...compressors.onnx_files.integer_functions import integer_functions
        from ...compressors.onnx_files.onnxruntime_layout import integer_outputs, unsigned_activations
        from ...compressors.onnx_files.recurrent import dynamic

        if self.capabilities.device != "cpu":
            return source.onnx
        unsigned = unsigned_activations(source.onnx, source.calibration)
        between = integer_functions(unsigned, source.calibration)
        return dynamic(integer_outputs(between, source.calibration))

    @contextmanager
    def build(self, artefact: bytes, *, threads: int) -> Iterator[Engine]:
        """Build a session from an ONNX file.

        Raises:
            InfeasibleError: ONNX Runtime refuses the model.
        """
        session = self._session(artefact, self._options(threads))
        yield OnnxRuntimeSession(session, tuple(node.name for node in session.get_inputs()))

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Return the optimised graph's nodes as its profiler saw them."""
        with scratch() as folder:
            options = self._options(1)
            options.enable_profiling = True
            options.profile_file_prefix = str(folder / "profile")
            options.optimized_model_filepath = str(folder / "optimised.onnx")
            session = self._session(artefact, options)
            feeds = dict(zip((node.name for node in session.get_inputs()), inputs, strict=True))
            for _ in range(PROFILED_RUNS):
                session.run(None, feeds)
            events = json.loads(Path(session.end_profiling()).read_text())
            windows = _windows(folder / "optimised.onnx")
        return _kernels(events, windows)

    def describe(self) -> Mapping[str, str]:
        """Return versions and device, to be stored with every number."""
        return {"onnxruntime": str(self._import().__version__), "provider": self.provider, **describe_host()}

    def _session(self, artefact: bytes, options: Any) -> Any:
        providers = list(dict.fromkeys((self.provider, "CPUExecutionProvider")))
        try:
            session = self._import().InferenceSession(artefact, options, providers=providers)
        except MissingRuntimeError:
            raise
        except Exception as error:  # its exceptions share no base of their own
            raise InfeasibleError(f"ONNX Runtime cannot load the model: {gist(error)}.", rung="build") from error
        if self.provider not in session.get_providers():
            raise MissingRuntimeError(f"--runtime {self.name} needs a device for {self.provider}; none could be used.")
        return session

    def _options(self, threads: int) -> Any:
        options = self._import().SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if threads > 1:  # a pool that spins after its run would slow the engine that is timed next
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _import(self) -> Any:
        module = needed("onnxruntime", runtime=self.name, extra="onnxruntime")
        if self.provider not in module.get_available_providers():
            raise MissingRuntimeError(
                f"--runtime {self.name} needs {self.provider}, which the installed onnxruntime {module.__version__} "
                "does not have: pip install onnxruntime-gpu"
            )
        return module


def _windows(optimised: Path) -> dict[str, int]:
    """Return the products of one number of a convolution's output, of a transposed one's input, of an LSTM's step."""
    import onnx

    graph = onnx.load(optimised).graph
    shapes = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    found = {}
    for node in graph.node:
        position = 3 if node.op_type == "QLinearConv" else 1
        if "Conv" in node.op_type and len(node.input) > position and node.input[position] in shapes:
            found[node.name] = math.prod(shapes[node.input[position]][1:])
        elif node.op_type in RECURRENT:
            found[node.name] = sum(math.prod(shapes.get(name, ())) for name in node.input[1:3])
    return found


def _kernels(events: Sequence[Mapping[str, Any]], windows: Mapping[str, int]) -> list[Kernel]:
    """Take the profiler's events together, one kernel a node: medians, since some runs are interrupted."""
    durations: defaultdict[str, list[float]] = defaultdict(list)
    last: dict[str, Mapping[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            durations[name].append(event["dur"] / 1e3)
            last[name] = event["args"]
    spent = {name: statistics.median(times) * len(times) / PROFILED_RUNS for name, times in durations.items()}
    return [_kernel(name, milliseconds, last[name], windows.get(name, 0)) for name, milliseconds in spent.items()]


def _kernel(name: str, milliseconds: float, args: Mapping[str, Any], window: int) -> Kernel:
    kind = args["op_name"]
    (dtype, shape), *_ = args["input_type_shape"][0].items() if args["input_type_shape"] else [("float", [])]
    if "MatMul" in kind or "Gemm" in kind:
        window = shape[-1] if shape else 0
    made = args["output_type_shape"][0].values() if args["output_type_shape"] else [[]]
    counted = shape[:2] if kind in RECURRENT else shape if kind == "ConvTranspose" else next(iter(made))
    bits = 4 if "NBits" in kind else 8 if kind == "DynamicQuantizeLSTM" else WIDTHS.get(dtype, 32)
    return Kernel(name=name, kind=kind, bits=bits, milliseconds=milliseconds, macs=math.prod(counted) * window)


VARIANTS = {
    "": OnnxRuntime(),
    "cuda": OnnxRuntime("cuda", "CUDAExecutionProvider"),
    "tensorrt": OnnxRuntime("tensorrt", "TensorrtExecutionProvider"),
}
