"""What a program that calls `compress` finds in its log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress import compress
from autocompress.errors import LostError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.storage.study_store import StudyStore

Search = Callable[..., StudyStore]

STUDY = Path(__file__).parents[1] / "end_to_end" / "my_study.py"


class Troubled:
    """Loses one trial once, and cannot build another."""

    def __init__(self, problem: AnalyticEvaluator) -> None:
        self.problem = problem
        self.count = 0

    def evaluate(self, request: Request, *host: object) -> Outcome:
        """Evaluate as the problem does, except the fourth request and the fifth."""
        self.count += 1
        if self.count == 4:
            raise LostError("the disk is full")
        if self.count == 5:
            return Infeasible(reason="it cannot be built", rung="build")
        return self.problem.evaluate(request, *host)


def of_trial(number: int, caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    """Return the level and the text of each line about a trial."""
    lines = [(each.levelno, each.getMessage()) for each in caplog.records if each.name.startswith("autocompress")]
    return [(level, text) for level, text in lines if text.startswith((f"trial {number} ", f"trial {number}:"))]


def test_each_trial_is_logged_with_its_reason(
    search: Search, small: AnalyticEvaluator, caplog: pytest.LogCaptureFixture
) -> None:
    """A finished, an infeasible and a stopped trial have one line each, and a lost one a warning."""
    caplog.set_level(logging.INFO, logger="autocompress")
    store = search(small, trials=30, target_ms=3.0, evaluator=Troubled(small))
    lost, *others = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert lost.getMessage() == "trial 3: the disk is full; it is tried again"
    assert not others
    for trial in store.finished():
        ((level, text),) = of_trial(trial.number, caplog)
        assert level == logging.INFO
        ended = ("is infeasible: ", "stopped early: ") if isinstance(trial.outcome, Infeasible) else ("finished: ",)
        assert any(each in text for each in ended)
    texts = [each.getMessage() for each in caplog.records]
    assert sum(text.endswith("is infeasible: it cannot be built") for text in texts) == 1
    assert any("is over the target of 3 ms" in text for text in texts)


def test_a_run_is_logged_from_its_start_to_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Start, final evaluation and end are logged, and so is that a run resumes; nothing is printed."""
    caplog.set_level(logging.INFO, logger="autocompress")

    def logged() -> list[str]:
        caplog.clear()
        compress(STUDY, "50ms", runtimes="fake", workers=0, trials=2, epochs=0, final_epochs=0, out=tmp_path / "run")
        return [each.getMessage() for each in caplog.records if each.name.startswith("autocompress")]

    first = logged()
    assert first[0] == f"study my_study, in {tmp_path / 'run'}: target 50 ms, 2 trials"
    assert any(text.startswith("the final evaluation begins with ") for text in first)
    assert any(text == "model baseline: final measurement finished" for text in first)
    assert first[-1].startswith("run finished: ")
    assert not any("resumes" in text for text in first)
    again = logged()
    assert "the study resumes: 2 of 2 trials are finished" in again
    assert not any(text.startswith("trial ") for text in again)
    assert capfd.readouterr() == ("", "")


def test_a_program_without_logging_sees_nothing() -> None:
    """The package's logger has the handler that does nothing, and no other."""
    handlers = logging.getLogger("autocompress").handlers
    assert handlers
    assert all(isinstance(each, logging.NullHandler) for each in handlers)
