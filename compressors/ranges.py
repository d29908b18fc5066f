"""The ranges of tensors inside an ONNX graph. This module imports no torch, as `flavours.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from .calibrate import MAX, Histogram, threshold

Batches = Iterable[Sequence[NDArray[np.generic]]]

MOVES = {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
"""Operators that move numbers and change none; what rounds before them may as well round after."""


def largest(
    proto: onnx.ModelProto, names: Collection[str], calibration: Batches, method: str = MAX
) -> dict[str, float]:
    """Return the largest magnitude to keep of each named tensor: of all that it takes, unless a method clips.

    Args:
        proto: the graph.
        names: of tensors that its nodes make or that are its inputs.
        calibration: batches of its inputs.
        method: one of `calibrate.METHODS`.

    """
    if not names:
        return {}
    if method == MAX:
        found: dict[str, float] = defaultdict(float)
        for name, value in _values(proto, names, calibration):
            found[name] = max(found[name], float(np.abs(value).max()))
        return dict(found)
    histograms: dict[str, Histogram] = defaultdict(Histogram)
    for name, value in _values(proto, names, calibration):
        histograms[name].add(value)
    return {name: threshold(histogram, method) for name, histogram in histograms.items()}


def _values(
    proto: onnx.ModelProto, names: Collection[str], calibration: Batches
) -> Iterator[tuple[str, NDArray[np.floating]]]:
    """Yield what the named tensors take, one batch after the other."""
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(names))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [source.name for source in session.get_inputs()]
    for batch in calibration:
        yield from zip(sorted(names), session.run(None, dict(zip(inputs, batch, strict=True))), strict=True)
