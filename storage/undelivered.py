"""Outcomes that could not be written to their study, kept in the run directory for the next run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..evaluators.measurement import Outcome
from ..evaluators.outcome_json import from_json, to_json
from ..files import write_atomically
from .trials import trial_name


class UndeliveredOutcomes:
    """The outcomes that a run directory keeps because the study's storage could not be written.

    Args:
        folder: the run directory.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "untold"

    def keep(self, number: int, outcome: Outcome) -> None:
        """Write the outcome of a trial to a file, if the disk lets that happen."""
        with suppress(OSError):
            write_atomically(self._folder / f"{trial_name(number)}.json", to_json(outcome).encode())

    def deliver(self, tell: Callable[[int, Outcome], object]) -> None:
        """Pass the trial's number and the outcome of each file to a function, then delete the file."""
        for path in sorted(self._folder.glob("*.json")):
            tell(int(path.stem), from_json(path.read_text()))
            path.unlink()
