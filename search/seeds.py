"""Seeds of evaluations: no two trainings of a study draw the same numbers, and each can be repeated."""

from __future__ import annotations

import numpy as np

TRIAL, FINAL = range(2)
"""The purpose of a seed: the training of a trial, or the final training of a model."""


def seed_of(study: int, trial: str, rung: int) -> int:
    """Return the seed of an evaluation.

    Args:
        study: the study's own seed.
        trial: the trial's id, its number in digits; those without a number, such as the baseline, share one seed.
        rung: `TRIAL` or `FINAL`.

    >>> seeds = {seed_of(0, trial, rung) for trial in ("baseline", "00003", "00004") for rung in (TRIAL, FINAL)}
    >>> len(seeds), seed_of(0, "00003", TRIAL) in seeds, seed_of(1, "00003", TRIAL) in seeds
    (6, True, False)
    """
    number = int(trial) + 1 if trial.isdecimal() else 0
    return int(np.random.SeedSequence((study, number, rung)).generate_state(1)[0])
