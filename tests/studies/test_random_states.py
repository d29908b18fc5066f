"""Random states are seeded for a while, and restored."""

from __future__ import annotations

import random

import numpy as np
import torch

from autocompress.studies.random_states import seeded


def test_seeded_states_are_restored() -> None:
    """The seed decides what torch, NumPy and Python draw, and the former states are restored at the end."""

    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    with seeded((1, 2)):
        one = draw()
    with seeded((1, 2)):
        same = draw()
    with seeded((1, 3)):
        other = draw()
    assert one == same
    assert all(a != b for a, b in zip(one, other, strict=True))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[2]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1][1])  # type: ignore[index]
