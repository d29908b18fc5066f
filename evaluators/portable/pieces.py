"""Batches of any size, for a model that takes one size alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def in_pieces(run: Callable[[Any], Any], size: int, inputs: Any) -> Any:
    """Return the outputs of a model whose batch has a fixed size; the last piece is filled up with its last row."""
    count = len(inputs[0])
    if count == size:
        return run(inputs)
    rows = [np.minimum(np.arange(at, at + size), count - 1) for at in range(0, count, size)]
    made = [run([x[some] for x in inputs]) for some in rows]
    return [np.concatenate(parts)[:count] for parts in zip(*made)]
