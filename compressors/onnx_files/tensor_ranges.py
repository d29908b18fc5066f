"""The ranges of tensors inside an ONNX graph. This module imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from ..quantization.calibration import MAX, Grid, Sides

Batch = Sequence[NDArray[np.generic]]
Batches = Iterable[Batch]

MOVES = {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
"""Operators that move numbers and change none; what rounds before them may as well round after."""


def spans(proto: onnx.ModelProto, names: Collection[str], calibration: Batches) -> dict[str, tuple[float, float]]:
    """Return the smallest and the largest value of each named tensor; the arguments are those of `grids`."""
    found: dict[str, tuple[float, float]] = {}
    for name, value in values(proto, names, calibration) if names else ():
        low, high = found.get(name, (np.inf, -np.inf))
        found[name] = min(low, float(value.min())), max(high, float(value.max()))
    return found


def grids(
    proto: onnx.ModelProto, names: Collection[str], calibration: Batches, method: str = MAX, *, asymmetric: bool = False
) -> dict[str, Grid]:
    """Return what each named tensor is rounded to: over all of its range, unless a method clips.

    Args:
        proto: the graph.
        names: of tensors that its nodes make or that are its inputs.
        calibration: batches of its inputs.
        method: one of `calibration.METHODS`.
        asymmetric: whether a range may have any zero point.

    """
    if method == MAX:
        ends = spans(proto, names, calibration)
    else:
        sides = {name: Sides(method, asymmetric=asymmetric) for name in names}
        for name, value, examples in _values(proto, names, calibration) if names else ():
            sides[name].add(value, examples)
        ends = {name: each.ends for name, each in sides.items()}
    return {name: Grid.over(*found, asymmetric=asymmetric) for name, found in ends.items()}


def values(
    proto: onnx.ModelProto, names: Collection[str], calibration: Batches
) -> Iterator[tuple[str, NDArray[np.floating]]]:
    """Yield the values of the named tensors, batch by batch."""
    yield from ((name, value) for name, value, _ in _values(proto, names, calibration))


def _values(
    proto: onnx.ModelProto, names: Collection[str], calibration: Batches
) -> Iterator[tuple[str, NDArray[np.floating], int]]:
    """Yield the values of the named tensors, with the number of examples in the batch."""
    given = [source.name for source in proto.graph.input]
    made = sorted(set(names) - {*given})
    session = _session(proto, made) if made else None
    for batch in (piece for whole in calibration for piece in _pieces(proto, whole)):
        read = dict(zip(given, batch, strict=True))
        examples = len(batch[0]) if len({len(x) for x in batch}) == 1 else 1
        yield from ((name, value, examples) for name, value in read.items() if name in names)
        if session is not None:
            yield from ((name, value, examples) for name, value in zip(made, session.run(made, read), strict=True))


def _pieces(proto: onnx.ModelProto, batch: Batch) -> Iterator[Batch]:
    """Yield a batch as a graph takes it; for a fixed batch size, in pieces, the last one padded."""
    dims = [source.type.tensor_type.shape.dim for source in proto.graph.input]
    sizes = {shape[0].dim_value if len(shape) else 0 for shape in dims}
    counts = {len(x) for x in batch}
    if sizes == counts or len(counts) > 1 or len(sizes) > 1 or 0 in sizes:
        yield batch
        return
    (size,), (count,) = sizes, counts
    for start in range(0, count, size):
        yield [x[np.minimum(np.arange(start, start + size), count - 1)] for x in batch]


def _session(proto: onnx.ModelProto, names: Collection[str]) -> onnxruntime.InferenceSession:
    """Return a session that computes some tensors of a graph."""
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return loaded(watched)


def loaded(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session for a graph on one core."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails raises
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
