"""Where in a study's training data a training begins, so that trainings see different data and share a teacher.

The stream has so few passes that most trainings find the teacher's outputs for their batches already computed, and so
many that no training sees a batch twice and trials in a row share none. With 24 trials of one pass and 8 final
trainings of four, the teacher computes 8 passes for 56 that are trained on; with 100 trials, 8 for 132
(`tests/compressors/test_stream.py`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

TRIALS = 8
"""So many trials in a row begin at different passes and share no batch."""

FINALS = 2
"""At so many passes final trainings begin: they are few and long, and of models that are compared with each other."""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Passes over training data, each in a random order of its own that depends on the seed and its number alone.

    So a training can begin at any pass without drawing those before it.

    Attributes:
        seed: of the orders, and of random augmentation.
        passes: passes after which the stream begins again; None where it never does.
        first: the pass at which a training begins.

    """

    seed: int
    passes: int | None = None
    first: int = 0

    def numbers(self) -> Iterator[int]:
        """Yield the numbers of the passes in the order of the training, without an end.

        >>> list(itertools.islice(Stream(seed=0, passes=4, first=2).numbers(), 6))
        [2, 3, 0, 1, 2, 3]
        """
        forever = itertools.count(self.first)
        return forever if self.passes is None else (number % self.passes for number in forever)


def stream_of(seed: int, number: int, *, epochs: float, final_epochs: float, final: bool = False) -> Stream:
    """Return the stream of a study, from the pass on at which a trial or a model's final training begins.

    Args:
        seed: the study's seed.
        number: the trial's number.
        epochs: passes of a trial's training; a part of a pass counts as one.
        final_epochs: passes of a final training.
        final: whether it is a final training.

    >>> [stream_of(0, trial, epochs=1, final_epochs=4).first for trial in range(10)]
    [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    >>> stream_of(0, 1, epochs=0.1, final_epochs=5, final=True)
    Stream(seed=0, passes=10, first=5)
    """
    short, long = (max(1, math.ceil(each)) for each in (epochs, final_epochs))
    passes = max(TRIALS * short, FINALS * long)
    first = number % FINALS * long if final else number * short % passes
    return Stream(seed=seed, passes=passes, first=first)
