"""Accuracies as means of one score per example, so that two models are compared on the same examples."""

from __future__ import annotations

import json
import math
import zlib
from base64 import b85decode, b85encode
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import RunDirectoryError

if TYPE_CHECKING:
    from torch import Tensor, nn

Scores = NDArray[np.float64]
"""Shape (examples,); the accuracy is their mean."""

MOST = 10_000_000
"""Maximum number of scores that are kept."""

KEPT_BYTES = 20_000
"""Maximum bytes of packed scores that are kept with a measurement: enough for 160 000 right or wrong answers."""


class Accuracy(NamedTuple):
    """The metric of a model on some data, with the packed scores of the examples; empty if they are unknown."""

    value: float
    scores: str = ""


def accuracy(
    metric: Callable[[nn.Module, Any], float],
    each: Callable[[nn.Module, Any], Tensor] | None,
    model: nn.Module,
    loader: object,
) -> Accuracy:
    """Return the metric of a model: the mean of the scores that ``each`` returns, if there is such a function."""
    if each is None:
        return Accuracy(float(metric(model, loader)))
    scores = each(model, loader).double().cpu().numpy()
    return Accuracy(float(scores.mean()), packed(scores))


def packed(scores: Scores | None) -> str:
    """Return scores as text, with 1 bit each if all are 0 or 1, else 16; empty if there are none, or too many.

    >>> unpacked(packed(np.array([1.0, 0.0, 1.0]))).tolist(), packed(None)
    ([1.0, 0.0, 1.0], '')
    """
    if scores is None or not 0 < len(scores) <= MOST or not np.isfinite(scores).all():
        return ""
    bits = bool(np.isin(scores, (0.0, 1.0)).all())
    scale = float(np.abs(scores).max()) or 1.0
    data = np.packbits(scores > 0).tobytes() if bits else (scores / scale).astype("<f2").tobytes()
    data = zlib.compress(data)
    if len(data) > KEPT_BYTES:
        return ""
    head = json.dumps([len(scores), None if bits else scale])
    return f"{head} {b85encode(data).decode()}"


@lru_cache(maxsize=1000)
def unpacked(text: str) -> Scores | None:
    """Return the scores that `packed` wrote; those that are not 0 or 1 are rounded to three digits.

    Raises:
        RunDirectoryError: `packed` has not written the text.
    """
    if not text:
        return None
    head, _, data = text.partition("] ")
    try:
        count, scale = json.loads(head + "]")
        size = -(-int(count) // 8) if scale is None else 2 * int(count)
        raw = zlib.decompressobj().decompress(b85decode(data), size + 1) if 0 < int(count) <= MOST else b""
        if len(raw) != size:
            raise ValueError(f"{count} scores take {size} bytes")
    except (ValueError, TypeError, zlib.error) as error:
        raise RunDirectoryError(
            f"the record of a model must hold scores as autocompress packs them; it holds {text[:40]!r}. Do not use "
            "the run directory or the database that it is from."
        ) from error
    if scale is None:
        scores = np.unpackbits(np.frombuffer(raw, np.uint8), count=count).astype(np.float64)
    else:
        scores = np.frombuffer(raw, "<f2").astype(np.float64) * scale
    scores.flags.writeable = False
    return scores


def standard_error(one: str, other: str) -> float:
    """Return the standard error of the difference of two accuracies on the same examples, from packed scores.

    For right and wrong answers it is McNemar's, √(b + c − (b − c)²/n) / n, where b and c count the examples that only
    one of the two gets right. (Q. McNemar, Note on the sampling error of the difference between correlated proportions
    or percentages, Psychometrika 1947.)

    Returns:
        The error; 0 if the scores of one are unknown, so that the accuracies alone decide.

    >>> one, other = packed(np.array([1.0, 1.0, 1.0, 0.0])), packed(np.array([1.0, 1.0, 0.0, 1.0]))
    >>> standard_error(one, one), round(standard_error(one, other), 3), standard_error(one, "")
    (0.0, 0.354, 0.0)
    """
    mine, theirs = unpacked(one), unpacked(other)
    if mine is None or theirs is None or len(mine) != len(theirs):
        return 0.0
    return float(np.std(mine - theirs)) / math.sqrt(len(mine))


def keeps(found: str, reference: str, places: Sequence[int] | None = None) -> bool:
    """Return whether packed scores are as good as a reference's on the same examples, within a standard error.

    Args:
        found: scores of a model.
        reference: scores of another one.
        places: which examples of the reference's the model has seen; None for all.

    Returns:
        Whether that is so; it is not if the scores of either are unknown.

    >>> reference = packed(np.repeat([1.0, 0.0], [90, 10]))
    >>> [keeps(packed(np.repeat([1.0, 0.0], [right, 100 - right])), reference) for right in (85, 90, 95)]
    [False, True, True]
    >>> keeps(packed(np.ones(2)), reference, places=(0, 99)), keeps(packed(np.ones(2)), reference), keeps("", reference)
    (True, False, False)
    """
    mine, theirs = unpacked(found), unpacked(reference)
    if mine is None or theirs is None:
        return False
    if places is not None:
        if len(mine) != len(places) or max(places) >= len(theirs):
            return False
        theirs = theirs[list(places)]
    if len(mine) != len(theirs):
        return False
    difference = mine - theirs
    return bool(difference.mean() >= -np.std(difference) / math.sqrt(len(mine)))


@lru_cache(maxsize=100)
def reserve(reference: str, least: float) -> float:
    """Return the standard error of a model that only loses right answers, as many as a minimum accuracy allows.

    A model should be predicted to exceed the minimum by that much, and by no more than the reference does. It is 0 for
    scores other than right or wrong, about which nothing is known beforehand.

    >>> round(reserve(packed(np.repeat([1.0, 0.0], [900, 100])), 0.89), 5), reserve("", 0.89)
    (0.00316, 0.0)
    """
    scores = unpacked(reference)
    if scores is None or not np.isin(scores, (0.0, 1.0)).all():
        return 0.0
    allowed = max(0.0, float(scores.mean()) - least)
    return min(allowed, math.sqrt(allowed / len(scores)))
