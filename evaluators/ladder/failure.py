"""Turns errors into reasons why a candidate is infeasible."""

from __future__ import annotations

import traceback
from pathlib import Path

from ...errors import InfeasibleError, LostError, in_a_line
from ...files import full
from ..measurement import Infeasible, Outcome, cut
from ..promotion import stops_early

UNTRAINED = "it could not be trained, and is what it was before: {}"
"""Warning of a model whose training failed in its trial."""

UNFINISHED = "its final training failed, and it is what the search left: {}"
"""Warning of a model whose longer training failed at the end."""


def why(error: Exception, rung: str, folder: Path) -> Infeasible:
    """Return the reason why a candidate stopped.

    Args:
        error: the error, from this package or from the user's code.
        rung: the candidate's rung.
        folder: folder for the traceback.

    Raises:
        LostError: the disk is full, which is not the candidate's fault.
    """
    if isinstance(error, InfeasibleError):
        return Infeasible(reason=error.reason, rung=error.rung)
    if isinstance(error, MemoryError):
        return Infeasible(reason="it does not fit into memory", rung=rung)
    if full(error):
        raise LostError(f"the disk of {str(folder)!r} is full") from error
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.txt").write_text("".join(traceback.format_exception(error)))
    return Infeasible(reason=in_a_line(error), rung=rung, raised=True)


def failure_of(outcome: Outcome) -> Infeasible | None:
    """Return why a candidate failed; None if it succeeded, costs too much, or was stopped early."""
    if isinstance(outcome, Infeasible):
        return None if cut(outcome) or stops_early(outcome) else outcome
    return outcome[0].failure
