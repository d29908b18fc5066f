"""For which shapes an engine is built: an ONNX file leaves the batch open, an engine is fastest at one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]

KEY = "autocompress.shapes"


def with_shapes(onnx: bytes, examples: Sequence[Any]) -> bytes:
    """Return an ONNX file that tells, beside its graph, the shapes in which it is served.

    Args:
        onnx: the file.
        examples: one array an input.

    """
    import onnx as package

    model = package.load_from_string(onnx)
    shapes = {tensor.name: list(x.shape) for tensor, x in zip(_inputs(model), examples, strict=True)}
    package.helper.set_model_props(model, {**_notes(model), KEY: json.dumps(shapes)})
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Interface:
    """What a model reads and returns, in its own order, which an engine need not keep.

    Attributes:
        inputs: the shape of each: the one that the file fixes, or tells by `with_shapes`, or None.
        outputs: their names.

    """

    inputs: Mapping[str, Shape | None] = field(default_factory=dict)
    outputs: Sequence[str] = ()

    @classmethod
    def of(cls, onnx: bytes) -> Interface:
        """Return the interface of an ONNX file; none of other bytes, which are left to TensorRT."""
        import onnx as package

        try:
            model = package.load_from_string(onnx)
        except Exception:  # protobuf's exceptions differ between its versions
            return cls()
        told = {name: tuple(shape) for name, shape in json.loads(_notes(model).get(KEY, "{}")).items()}
        return cls(
            {tensor.name: told.get(tensor.name) or _fixed(tensor) for tensor in _inputs(model)},
            tuple(tensor.name for tensor in model.graph.output),
        )


def _inputs(model: Any) -> list[Any]:
    """Return the inputs that are not initialisers, which old files list too."""
    stored = {weight.name for weight in model.graph.initializer}
    return [tensor for tensor in model.graph.input if tensor.name not in stored]


def _fixed(tensor: Any) -> Shape | None:
    sizes = tensor.type.tensor_type.shape.dim
    return tuple(size.dim_value for size in sizes) if all(size.HasField("dim_value") for size in sizes) else None


def _notes(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}
