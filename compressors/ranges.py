"""The ranges of tensors inside an ONNX graph. This module imports no torch, as `flavours.py`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper


def largest(
    proto: onnx.ModelProto, names: Collection[str], calibration: Iterable[Sequence[NDArray[np.generic]]]
) -> dict[str, float]:
    """Return the largest magnitude that each named tensor takes.

    Args:
        proto: the graph.
        names: of tensors that its nodes make or that are its inputs.
        calibration: batches of its inputs.

    """
    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(names))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [source.name for source in session.get_inputs()]
    found: dict[str, float] = defaultdict(float)
    for batch in calibration:
        for name, value in zip(sorted(names), session.run(None, dict(zip(inputs, batch, strict=True))), strict=True):
            found[name] = max(found[name], float(np.abs(value).max()))
    return dict(found)
