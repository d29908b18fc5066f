"""Keeps the files of trials at a URL that every node of a cluster reaches.

Below the URL each study has a folder, and in it each trial one with a manifest, which is written last: an interrupted
upload is never taken for a complete one. Downloads are compared with the manifest's digests.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import LostError, UsageError
from ...evaluators.evaluator import Request, Wrapping
from ...evaluators.ladder.trial_files import ERROR
from ...evaluators.measurement import Infeasible, Outcome
from ...evaluators.scratch import scratch
from ...storage.artifacts import ArtifactStore
from .base import LostTrial

if TYPE_CHECKING:
    from ...evaluators.ladder.ladder import Ladder


class WithArtifacts(Wrapping):
    """Evaluates in a folder of its node, and keeps the results elsewhere.

    Args:
        ladder: evaluates requests.
        artifacts: has the weights to start from, and takes the files.
    """

    def __init__(self, ladder: Ladder, artifacts: ArtifactStore) -> None:
        super().__init__(ladder)
        self._artifacts = artifacts

    def evaluate(self, request: Request) -> Outcome:
        """Evaluate a request.

        Raises:
            LostError: its files cannot be brought or kept.
        """
        with self._placed() as ladder:
            if request.ancestor:
                folder, _, name = request.ancestor.rpartition("/")
                self._artifacts.get(ladder.folder, folder, name)  # without it, it goes on from the original
            outcome = ladder.evaluate(request)
            if not isinstance(outcome, Infeasible):
                self._artifacts.put(ladder.folder, request.folder)
            elif (ladder.folder / request.folder / ERROR).exists():
                self._artifacts.put(ladder.folder, request.folder, ERROR)
            return outcome

    @contextmanager
    def _placed(self) -> Iterator[Ladder]:
        with ExitStack() as stack:
            ladder: Ladder = copy.copy(self._evaluator)
            try:
                ladder.folder = stack.enter_context(scratch())
            except UsageError as error:  # of this node; another one may do
                raise LostError(str(error)) from error
            yield ladder


def fetch_outcome(artifacts: ArtifactStore, root: Path, request: Request, outcome: Outcome) -> Outcome | LostTrial:
    """Copy the wanted files of a finished request to the run directory: a finished model, or a traceback."""
    measured = not isinstance(outcome, Infeasible)
    if measured and not request.test:
        return outcome  # wherever it is, that is where its heirs will look for it
    try:
        found = artifacts.get(root, request.folder)
        if found:
            artifacts.delete(request.folder)
    except LostError as error:
        return LostTrial(str(error), counts=False) if measured else outcome
    return outcome if found or not measured else LostTrial("its files are gone", counts=False)
