"""The operations of a LiteRT model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WINDOWS = {"CONV_2D": slice(1, None), "DEPTHWISE_CONV_2D": slice(1, 3), "FULLY_CONNECTED": slice(-1, None)}
"""Which sizes of an operation's weight multiply to the products that make one number of its output."""


Details = Mapping[str, Any]
"""LiteRT's description of one tensor: ``index``, ``name``, ``shape``, ``dtype``, ``quantization``."""


@dataclass(frozen=True)
class LiteRtOperation:
    """One operation of a model, with its tensors; those that it leaves out are left out."""

    kind: str
    inputs: Sequence[Details]
    outputs: Sequence[Details]


def operations(interpreter: Any) -> list[LiteRtOperation]:
    """Return a model's operations in order."""
    tensors = {details["index"]: details for details in interpreter.get_tensor_details()}
    return [
        LiteRtOperation(
            operation["op_name"],
            *([tensors[i] for i in operation[side] if i in tensors] for side in ("inputs", "outputs")),
        )
        for operation in interpreter._get_ops_details()
        if operation["op_name"] != "DELEGATE"  # stands for operations that are listed as well
    ]
