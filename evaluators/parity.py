"""Compares the outputs of a runtime with PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..spaces.capabilities import Capabilities
from .runtime import Arrays

FLOAT_TOLERANCE = 0.01
"""Largest difference between PyTorch and the runtime for a float network, as a share of the outputs' range."""

INTEGER_TOLERANCE = 0.1
"""The same for a quantized network, whose rounding differs in a few places that PyTorch does not simulate."""

ROUNDED_TOLERANCE = 0.5
"""The same for a runtime that rounds by itself; it only finds wrong computations, and the metric finds the rest."""


def tolerance(capabilities: Capabilities, *, quantized: bool) -> float:
    """Return the largest difference from PyTorch, as a share of the outputs' range, that a runtime's rounding explains.

    Args:
        capabilities: the runtime's.
        quantized: whether PyTorch rounds layers of the network too.

    >>> [tolerance(Capabilities(runtime="mine", rounds=rounds), quantized=True) for rounds in (False, True)]
    [0.1, 0.5]
    """
    if capabilities.rounds:
        return ROUNDED_TOLERANCE
    return INTEGER_TOLERANCE if quantized else FLOAT_TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The distance of outputs from the expected ones.

    Attributes:
        difference: the largest difference as a share of its output's range; NaN if an output has a NaN.
        agreement: share of examples with the same largest class; None if the first output is not (batch, classes).
    """

    difference: float
    agreement: float | None


def compare(expected: Sequence[Arrays], actual: Sequence[Arrays]) -> Parity | None:
    """Compare the outputs of some batches, with one array per output; None if their numbers or shapes differ.

    >>> compare([[np.array([[0.0, 1.0]])]], [[np.array([[0.0, 1.5]])]])
    Parity(difference=0.5, agreement=1.0)
    """
    shapes = [[[array.shape for array in batch] for batch in side] for side in (expected, actual)]
    if shapes[0] != shapes[1]:
        return None
    differences = []
    for e, a in zip(zip(*expected, strict=True), zip(*actual, strict=True), strict=True):
        one, other = (np.concatenate([array.ravel() for array in side]).astype(np.float64) for side in (e, a))
        differences.append(np.abs(one - other).max() / max(np.ptp(one), 1e-12))
    agreement = None
    if len(shapes[0][0][0]) == 2 and shapes[0][0][0][1] > 1:
        same = [e[0].argmax(1) == a[0].argmax(1) for e, a in zip(expected, actual, strict=True)]
        agreement = float(np.concatenate(same).mean())
    return Parity(difference=float(np.max(differences)), agreement=agreement)
