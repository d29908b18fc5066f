"""Model files of a user: read whole, with what they tell of their inputs, and who serves them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import MissingRuntimeError, UsageError, gist
from ..runtime import Runtime
from ..runtimes import RUNTIMES, load, needed, variants_of
from .model_inputs import Input


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model as it lies on the disk.

    Attributes:
        path: where.
        content: its bytes; weights that an ONNX file keeps beside it are part of them.
        inputs: what it declares; empty where its format does not tell.

    """

    path: Path
    content: bytes
    inputs: tuple[Input, ...]

    def served_as_it_is(self, runtime: Runtime) -> bool:
        """Whether a runtime reads it without a conversion."""
        return self.path.suffix in runtime.capabilities.reads


def read(path: Path) -> ModelFile:
    """Read a model file.

    Raises:
        UsageError: there is none, or it is not what its ending says.

    """
    endings = sorted({ending for runtime in offered() for ending in runtime.capabilities.reads})
    if path.suffix not in endings:
        raise UsageError(f"A model file must end with one of {', '.join(endings)}; got {str(path)!r}.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"A model must be a file that can be read; {str(path)!r}: {error.strerror}.") from error
    reader = {".onnx": _onnx, ".tflite": _tflite}.get(path.suffix)
    if reader is None:
        return ModelFile(path=path, content=content, inputs=())
    try:
        return reader(path, content)
    except MissingRuntimeError:
        raise
    except Exception as error:  # protobuf's and LiteRT's exceptions share no base of their own
        raise UsageError(f"A file that ends with {path.suffix} must be whole; {str(path)!r}: {gist(error)}") from error


def _onnx(path: Path, content: bytes) -> ModelFile:
    import onnx  # noqa: PLC0415  # start-up time: onnx is slow to import
    from onnx.external_data_helper import uses_external_data  # noqa: PLC0415  # start-up time: onnx is slow to import

    proto = onnx.load_from_string(content)
    if any(map(uses_external_data, proto.graph.initializer)):
        content = onnx.load(path).SerializeToString()
    constants = {weight.name for weight in proto.graph.initializer}
    inputs = []
    for value in proto.graph.input:
        if value.name not in constants:
            kind = value.type.tensor_type
            shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
            inputs.append(Input(name=value.name, shape=shape, dtype=dtype))
    return ModelFile(path=path, content=content, inputs=tuple(inputs))


def _tflite(path: Path, content: bytes) -> ModelFile:
    module = needed("ai_edge_litert.interpreter", runtime="litert", extra="litert")
    inputs = tuple(
        Input(
            name=detail["name"],
            shape=tuple(None if dim < 0 else int(dim) for dim in detail["shape_signature"]),
            dtype="float32" if detail["quantization"][0] else np.dtype(detail["dtype"]).name,
        )
        for detail in module.Interpreter(model_content=content).get_input_details()
    )
    return ModelFile(path=path, content=content, inputs=inputs)


def offered() -> Iterator[Runtime]:
    """Yield all runtimes and their variants, except the fake one."""
    for family in RUNTIMES:
        if family != "fake":
            yield from variants_of(family).values()


def first_able(model: ModelFile) -> Runtime:
    """Return the first runtime that reads a file as it is and is installed.

    Raises:
        MissingRuntimeError: none of those that read it is installed.

    """
    missing = []
    for runtime in filter(model.served_as_it_is, offered()):
        try:
            runtime.describe()
        except MissingRuntimeError as error:
            missing.append(error)
        else:
            return runtime
    raise missing[0]


def able(name: str, model: ModelFile) -> Runtime:
    """Return a runtime by name, if it is installed and can serve a file.

    Raises:
        UsageError: it does not read such files, nor converts them.
        MissingRuntimeError: it is not installed.

    """
    runtime = load(name)
    converts = model.path.suffix == ".onnx" and runtime.capabilities.opset is not None
    if not converts and not model.served_as_it_is(runtime):
        endings = ", ".join(runtime.capabilities.reads)
        raise UsageError(f"--runtime {name} serves files that end with {endings}; got {str(model.path)!r}.")
    runtime.describe()
    return runtime
