"""The end of a run whose longer trainings fail: what the search found stands, and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from autocompress.errors import StudyError
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Outcome, Window
from autocompress.evaluators.meters.latency import Plan
from autocompress.pareto.front import ParetoFront
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import Model
from autocompress.reports.terminal_table import render
from autocompress.search.dispatch import RunContext
from autocompress.search.final_evaluation import FinalEvaluation
from autocompress.search.options import Options
from autocompress.search.progress import Silent
from autocompress.search.workers.inline import InlineWorkers
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run_directory import RunDirectory, read_record

LATENCY = Latency(windows=(Window(baseline_ns=(2,), candidate_ns=(1,)),) * 9, baseline_ms=2.0)
FOUND = Measurement(accuracy=0.8, latency=LATENCY, size_bytes=9, params=1, macs=1, epochs=1.0)
WHY = Infeasible(reason="ValueError: a batch of one", rung="train", raised=True)


class Clock:
    """Measures what is known already."""

    def measure(self, artefact: bytes, plan: Plan, **_: Any) -> Latency:
        """Return the latency."""
        return LATENCY

    def memory(self, artefact: bytes, **_: Any) -> int:
        """Return a byte."""
        return 1


class Trainer:
    """Leaves what it was told to for each number of passes, and a file that says how long it trained."""

    def __init__(self, folder: Path, outcomes: Callable[[float], Outcome]) -> None:
        self.folder, self.outcomes = folder, outcomes
        self.epochs: list[float] = []

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Return the outcome."""
        self.epochs.append(request.epochs)
        (self.folder / request.folder).mkdir(parents=True, exist_ok=True)
        (self.folder / request.folder / "model.onnx").write_text(f"{request.epochs:g}")
        return self.outcomes(request.epochs)


class Told(Silent):
    """Remembers its lines."""

    def __init__(self) -> None:
        self.milestones: list[str] = []

    def milestone(self, text: str) -> None:
        """Remember."""
        self.milestones.append(text)


@pytest.fixture
def rundir(tmp_path: Path) -> Iterator[RunDirectory]:
    """Return a run directory in which two trials have left their files."""
    held = RunDirectory(tmp_path / "run", {"study": "run"})
    for name in ("00001", "00002"):
        (held.trials / name).mkdir(parents=True)
        (held.trials / name / "model.onnx").write_text("search")
    yield held
    held.close()


def models(found: Measurement = FOUND) -> list[Model]:
    """Return both models as the search found them."""
    candidates = {name: Candidate({"bits": {name: 8}}) for name in ("00001", "00002")}
    return [Model(id=n, candidate=c, measurements=(found,), path=f"trials/{n}") for n, c in candidates.items()]


def ended(
    rundir: RunDirectory, outcomes: Callable[[float], Outcome], found: Measurement = FOUND
) -> tuple[list[Model], Trainer, list[str]]:
    """Return what the end of a run of ten passes leaves, which models trained, and the progress."""
    trainer, told = Trainer(rundir.path, outcomes), Told()
    clock: Any = Clock()
    options = Options(out=rundir.path, workers=0, target_ms=5.0)
    workers = InlineWorkers(trainer)
    context = RunContext(options=options, rundir=rundir, workers=workers, epochs=1.0, final_epochs=10.0, progress=told)
    return FinalEvaluation(context, {"": clock}).run(models(found)), trainer, told.milestones


def longer_fails(epochs: float) -> Outcome:
    """Fail in a training that is longer than that of the search."""
    failed = replace(FOUND, rung="trained", test_accuracy=0.7, epochs=0.0, failure=WHY)
    return (failed,) if epochs > 1 else again(epochs)


def again(epochs: float) -> Outcome:
    """Return what a training of the search's length gives."""
    return (replace(FOUND, rung="trained", test_accuracy=0.75, epochs=epochs),)


def never(epochs: float) -> Outcome:
    """Fail however long it is trained."""
    return replace(WHY, reason="it became worse") if epochs else again(epochs)


def test_what_cannot_be_trained_longer_stands_as_the_search_left_it(rundir: RunDirectory) -> None:
    """It has the search's training, a score on the test data and a warning; one message has the way out."""
    found, trainer, told = ended(rundir, longer_fails)
    assert trainer.epochs == [10.0, 10.0, 1.0, 1.0] or trainer.epochs == [10.0, 1.0, 10.0, 1.0]
    for model in found:
        measured = model.measurement
        assert (measured.rung, measured.epochs, measured.test_accuracy, measured.failure) == ("final", 1.0, 0.75, WHY)
        assert measured.warnings == ("its final training failed, and it is what the search left: " + WHY.reason,)
        assert read_record(rundir.path / model.path) == (measured,)
    assert [text for text in told if "final training" in text] == [
        "the final training of 00001, 00002 failed: ValueError: a batch of one. Their results from the search "
        "stand; once this is fixed in the study, the same command trains them again"
    ]


def test_what_cannot_be_trained_again_keeps_the_search_s_files(rundir: RunDirectory) -> None:
    """Weights and numbers are those of its trial, whatever the attempts have left in its folder."""
    found, _, told = ended(rundir, never)
    for model in found:
        assert (rundir.path / model.path / "model.onnx").read_text() == "search"
        assert model.measurement.accuracy == FOUND.accuracy
        assert model.measurement.failure is not None
        assert read_record(rundir.path / model.path) == model.measurements
    assert len([text for text in told if "failed" in text]) == 1


def test_the_same_command_trains_again_once_the_study_was_mended(rundir: RunDirectory) -> None:
    """A record of a failed training is no end of it; one of a training that went well is."""
    ended(rundir, longer_fails)
    found, trainer, told = ended(rundir, again)
    assert trainer.epochs == [10.0, 10.0]
    assert [model.measurement.failure for model in found] == [None, None]
    assert not told
    assert ended(rundir, again)[1].epochs == []


def test_what_could_not_be_trained_in_its_trial_is_not_trained_at_the_end(rundir: RunDirectory) -> None:
    """It is scored on the test data and measured as it is, and still says why."""
    found, trainer, told = ended(rundir, again, replace(FOUND, epochs=0.0, failure=WHY))
    assert trainer.epochs == [0.0, 0.0]
    for model in found:
        assert model.measurement.test_accuracy == 0.75
        assert model.measurement.failure == WHY
        assert model.measurement.warnings == ("it could not be trained, and is what it was before: " + WHY.reason,)
    assert not told
    assert ended(rundir, again, replace(FOUND, epochs=0.0, failure=WHY))[1].epochs == []


def test_a_run_whose_baseline_cannot_be_scored_any_more_says_why(rundir: RunDirectory) -> None:
    """As where a metric raises on the test data, which no trial saw: there is nothing to compare to."""
    baseline = Model(id="baseline", candidate=Candidate(), measurements=(FOUND,), role="baseline", path="trials/00000")
    clock: Any = Clock()
    options = Options(out=rundir.path, workers=0, target_ms=5.0)
    trainer = Trainer(rundir.path, lambda epochs: replace(WHY, rung="test"))
    workers = InlineWorkers(trainer)
    context = RunContext(options=options, rundir=rundir, workers=workers, epochs=1.0, final_epochs=10.0)
    finals = FinalEvaluation(context, {"": clock})
    with pytest.raises(StudyError, match=r"unchanged network must be scored at the end.*a batch of one\. Fix that"):
        finals.run([baseline, *models()])


def test_the_table_names_every_model_that_was_not_trained(rundir: RunDirectory) -> None:
    """Not just the recommended one, and one reason is reported once."""
    found, *_ = ended(rundir, longer_fails)
    baseline = replace(found[0], id="baseline", role="baseline", measurements=(replace(FOUND, epochs=0.0),))
    front = ParetoFront(limits=Limits(5.0), baseline=baseline, models=tuple(found))
    shown = [str(part) for part in render(front, "run").renderables if isinstance(part, Text)]  # type: ignore[attr-defined]
    assert [line for line in shown if WHY.reason in line] == [
        "  Training failed: 00001, 00002. ValueError: a batch of one."
    ]
