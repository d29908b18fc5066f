"""The stream that all trainings of a study walk: which of them share data, and what a batch depends on."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autocompress.compressors.batches import Endless
from autocompress.compressors.stream import FINALS, TRIALS, Stream, stream_of

PASSES = st.floats(0, 12)


def walked(stream: Stream, epochs: float) -> list[int]:
    """Return the numbers of the passes that a training begins."""
    return list(islice(stream.numbers(), max(1, math.ceil(epochs))))


@given(number=st.integers(0, 10_000), epochs=PASSES, final_epochs=PASSES)
def test_trainings_in_a_row_share_no_pass_and_none_sees_one_twice(
    number: int, epochs: float, final_epochs: float
) -> None:
    """A batch comes again in a training only when all of the stream was used up, and in none of its neighbours."""
    for final, row in ((False, TRIALS), (True, FINALS)):
        streams = [
            stream_of(0, n, epochs=epochs, final_epochs=final_epochs, final=final) for n in range(number, number + row)
        ]
        seen = [number for each in streams for number in walked(each, final_epochs if final else epochs)]
        assert len(set(seen)) == len(seen)
        assert all(0 <= number < (each.passes or 0) for each in streams for number in seen)
        assert len(set(walked(streams[0], streams[0].passes or 0))) == streams[0].passes


def test_the_teacher_computes_a_seventh_of_what_a_default_study_trains_on() -> None:
    """24 trials of one pass and 8 final trainings of four need 8 passes of answers for 56 of training."""
    for trials, ratio in ((24, 7.0), (100, 16.5)):
        seen = [p for n in range(trials) for p in walked(stream_of(0, n, epochs=1, final_epochs=4), 1)]
        for n in range(8):
            seen += walked(stream_of(0, n, epochs=1, final_epochs=4, final=True), 4)
        assert len(seen) / len(set(seen)) == ratio


class Augmented:
    """Batches of random numbers of each kind, as random augmentation draws them."""

    def __iter__(self) -> Iterator[Tensor]:
        """Yield three batches."""
        for _ in range(3):
            yield torch.tensor([float(torch.rand(())), random.random(), np.random.rand()])


@given(seed=st.integers(0, 2**32), first=st.integers(0, 5), skipped=st.integers(0, 5), noise=st.integers(0, 2**31))
def test_a_batch_depends_on_the_seed_and_its_place_alone(seed: int, first: int, skipped: int, noise: int) -> None:
    """A training finds the same batches wherever it began, whatever it draws itself, and after the end again."""
    passes = 6
    whole = Endless(Augmented(), Stream(seed=seed, passes=passes))
    expected: dict[str, Tensor] = {}
    for batch in islice(whole, 3 * passes):
        expected[whole.place] = batch
    assert len({tuple(batch.tolist()) for batch in expected.values()}) == 3 * passes
    torch.manual_seed(noise)
    batches = Endless(Augmented(), Stream(seed=seed, passes=passes, first=first))
    for batch in islice(batches, 3 * skipped + 20):
        torch.rand(noise % 3), random.random(), np.random.rand(noise % 2 + 1)
        assert torch.equal(batch, expected[batches.place])


def test_drawing_a_batch_changes_no_random_number_of_the_training() -> None:
    """Dropout is the same whichever batch it is applied to."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    next(Endless(Augmented(), Stream(seed=0)))
    assert torch.equal(torch.rand(3), expected)


def test_batches_of_a_list_keep_their_places() -> None:
    """What is the same in each pass is known again in another order."""
    batches = Endless([torch.tensor(i) for i in range(5)], Stream(seed=0))
    seen = [(batches.place, int(batch)) for batch in islice(batches, 15)]
    assert len(set(seen)) == 5
    assert [item for _, item in seen[:5]] != [item for _, item in seen[5:10]]
