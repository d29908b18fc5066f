"""Keeps the files of trials at a URL that every node of a cluster reaches.

Below the URL each study has a folder, and in it each trial one with a manifest, which is written last: an interrupted
upload is never taken for a complete one. Downloads are compared with the manifest's digests.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ...errors import LostError, UsageError
from ...evaluators.evaluator import Evaluator, Host, Request
from ...evaluators.ladder.trial_files import ERROR
from ...evaluators.measurement import Infeasible, Outcome
from ...evaluators.scratch import scratch, shared_folder
from ...storage.artifacts import ArtifactStore
from .base import LostTrial


class WithArtifacts:
    """Evaluates in a temporary folder of its node, and keeps the results in an artifact store.

    The teacher's outputs stay on the node, for its other workers.

    Args:
        evaluator: evaluates requests.
        artifacts: has the weights to start from, and takes the files.
    """

    def __init__(self, evaluator: Evaluator, artifacts: ArtifactStore) -> None:
        self._evaluator = evaluator
        self._artifacts = artifacts
        self._answers = uuid.uuid4().hex

    def evaluate(self, request: Request, host: Host) -> Outcome:
        """Evaluate a request.

        Raises:
            LostError: its files cannot be brought or kept.
        """
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(scratch())
                answers = shared_folder(self._answers)
            except UsageError as error:  # this node has no room; another one may
                raise LostError(str(error)) from error
            if request.ancestor:
                source, _, name = request.ancestor.rpartition("/")
                self._artifacts.get(folder, source, name)  # without it, the trial starts from the original weights
            outcome = self._evaluator.evaluate(request, replace(host, folder=folder, answers=answers))
            if not isinstance(outcome, Infeasible):
                self._artifacts.put(folder, request.folder)
            elif (folder / request.folder / ERROR).exists():
                self._artifacts.put(folder, request.folder, ERROR)
            return outcome


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
