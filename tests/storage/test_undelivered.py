"""Outcomes that a study's storage could not take wait in the run directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.errors import StorageError
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.storage.undelivered import UndeliveredOutcomes

FIRST, SECOND = (Infeasible(reason=reason, rung="build") for reason in ("one", "two"))


def test_what_is_kept_is_delivered_once(tmp_path: Path) -> None:
    """Another run gets each outcome with its trial's number, in their order, and nothing is left."""
    kept = UndeliveredOutcomes(tmp_path)
    kept.keep(12, SECOND)
    kept.keep(3, FIRST)
    told: list[tuple[int, Outcome]] = []
    UndeliveredOutcomes(tmp_path).deliver(lambda number, outcome: told.append((number, outcome)))
    assert told == [(3, FIRST), (12, SECOND)]
    UndeliveredOutcomes(tmp_path).deliver(lambda number, outcome: pytest.fail("it was delivered twice"))


def test_what_cannot_be_delivered_stays(tmp_path: Path) -> None:
    """An outcome whose delivery fails is delivered by the next run."""
    kept = UndeliveredOutcomes(tmp_path)
    kept.keep(3, FIRST)

    def away(number: int, outcome: Outcome) -> None:
        raise StorageError("away")

    with pytest.raises(StorageError):
        kept.deliver(away)
    told: list[int] = []
    kept.deliver(lambda number, outcome: told.append(number))
    assert told == [3]
