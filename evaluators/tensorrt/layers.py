"""What a built engine executes, from the report of its inspector."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..runtime import Kernel

Layer = Mapping[str, Any]

WIDTHS = (
    (re.compile(r"int4|fp4|e2m1", re.IGNORECASE), 4),
    (re.compile(r"int8|fp8|e4m3|e5m2", re.IGNORECASE), 8),
    (re.compile(r"half|fp16|float16|bf16", re.IGNORECASE), 16),
)
"""Bits of the types that reports name, narrow to wide; all others have 32."""


def layers(report: str) -> list[Layer]:
    """Return the layers of a report in JSON; of engines without details only their names are known."""
    found = json.loads(report).get("Layers", [])
    return [{"Name": layer} if isinstance(layer, str) else layer for layer in found]


def kernels(report: str, milliseconds: Mapping[str, float] | None = None) -> list[Kernel]:
    """Return the layers of a report as kernels.

    Args:
        report: of the engine's inspector, in JSON.
        milliseconds: of each layer, by its name.

    >>> kernels('{"Layers": ["conv + relu"]}', {"conv + relu": 0.5})
    [Kernel(name='conv + relu', kind='unknown', bits=32, milliseconds=0.5, macs=0)]
    """
    return [
        Kernel(
            name=layer["Name"],
            kind=layer.get("LayerType", "unknown"),
            bits=_bits(layer),
            milliseconds=(milliseconds or {}).get(layer["Name"]),
            macs=_macs(layer),
        )
        for layer in layers(report)
    ]


def sparse(report: str) -> list[str]:
    """Return the layers that run on kernels for weights with a 2:4 pattern."""
    return [layer["Name"] for layer in layers(report) if "sparse" in layer.get("TacticName", "").lower()]


def width(text: str) -> int:
    """Return the bits of the type that a text names.

    >>> [width(text) for text in ("Row major Int8 format", "Half", "Channel major FP16 format", "FP32", "FP8", "BF16")]
    [8, 16, 16, 32, 8, 16]
    """
    return next((bits for pattern, bits in WIDTHS if pattern.search(text)), 32)


def _bits(layer: Layer) -> int:
    """Return the width of the numbers that a layer multiplies: that of what it reads first.

    Weights may be stored in fewer bits than they are multiplied in; where the layer's inputs are not told, its weights
    are what is known.
    """
    formats = [str(tensor.get("Format/Datatype", "")) for tensor in layer.get("Inputs", [])]
    if not formats:
        return width(str(layer.get("Weights", {}).get("Type", "")))
    return width(formats[0])


def _macs(layer: Layer) -> int:
    """Return the multiply-accumulates of a convolution, or of a product of matrices (batch, …, rows, inner)."""
    made = [tensor.get("Dimensions", []) for tensor in layer.get("Outputs", [])]
    read = [tensor.get("Dimensions", []) for tensor in layer.get("Inputs", [])]
    weights = int(layer.get("Weights", {}).get("Count", 0))
    if weights and made and len(made[0]) > 1:
        return int(weights * math.prod(made[0]) // max(made[0][1], 1))
    is_product = re.search(r"gemm|matmul|matrixmultiply", layer.get("LayerType", ""), re.IGNORECASE)
    if is_product and made and read and read[0]:
        return int(math.prod(made[0]) * read[0][-1])
    return 0


def median_by_layer(times: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Return each layer's median milliseconds.

    >>> median_by_layer([("a", 1.0), ("b", 5.0), ("a", 3.0), ("a", 2.0)])
    {'a': 2.0, 'b': 5.0}
    """
    found: dict[str, list[float]] = {}
    for name, milliseconds in times:
        found.setdefault(name, []).append(milliseconds)
    return {name: sorted(spent)[len(spent) // 2] for name, spent in found.items()}
