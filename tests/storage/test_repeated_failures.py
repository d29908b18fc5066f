"""Trials that fail alike, and trainings that fail: what the search does, what it keeps, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.pipeline import supplies_of
from autocompress.errors import StudyError
from autocompress.evaluators import runtimes
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.ladder.ladder import Ladder
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Measurements, Outcome, Window
from autocompress.evaluators.outcome_json import from_json, to_json
from autocompress.spaces.candidate import Candidate
from autocompress.storage.repeated_failures import JUDGED, LEAST, failed_repeatedly
from autocompress.storage.study_store import StudyStore
from autocompress.studies.task import Batch, Task

Search = Callable[..., StudyStore]

LATENCY = Latency(windows=(Window(baseline_ns=(2,), candidate_ns=(1,)),) * 3, baseline_ms=2.0)
TRAINED = (Measurement(accuracy=0.9, latency=LATENCY, size_bytes=1, params=1, macs=1, epochs=1.0),)
CUT = Infeasible(reason="too slow", rung="latency", latency=LATENCY)


def raised(reason: str, rung: str = "train") -> Infeasible:
    """Return what a task's own code ended."""
    return Infeasible(reason=reason, rung=rung, raised=True)


def untrained(failure: Infeasible) -> Measurements:
    """Return a model that was scored before its training failed."""
    return (replace(TRAINED[0], epochs=0.0, failure=failure),)


def numbered(outcomes: Sequence[Outcome]) -> dict[int, Outcome]:
    """Return outcomes as those of trials."""
    return dict(enumerate(outcomes, start=1))


BROKEN = [untrained(raised(f"ValueError: batch {i} of size {i}.5")) for i in range(40)]
NAN = [untrained(Infeasible(reason=f"the loss became nan at training step {i}", rung="train")) for i in range(40)]
UNBUILT = [raised("TypeError: no such layer", rung="build")] * 40


@pytest.mark.parametrize(
    ("outcomes", "stops"),
    [
        pytest.param(BROKEN[:LEAST], True, id="the first few"),
        pytest.param(BROKEN[: LEAST - 1], False, id="one fewer"),
        pytest.param([TRAINED, *BROKEN[:LEAST]], False, id="as many after one that went well"),
        pytest.param([TRAINED, *BROKEN[: 2 * LEAST]], True, id="twice as many after one that went well"),
        pytest.param([*BROKEN[:2], TRAINED, *BROKEN[:5]], False, id="those before one that went well do not count"),
        pytest.param([CUT, *BROKEN[:2], CUT, BROKEN[3]], True, id="those that were too slow do not count"),
        pytest.param([CUT, *UNBUILT[:LEAST]], False, id="but they were built"),
        pytest.param(UNBUILT[:LEAST], True, id="none can be built"),
        pytest.param([*BROKEN[:5], *UNBUILT[:LEAST]], False, id="others were built"),
        pytest.param([*UNBUILT[:2], *BROKEN[:2]], False, id="two reasons"),
        pytest.param([BROKEN[0], NAN[0], BROKEN[1], NAN[1], BROKEN[2]], True, id="another reason in between"),
        pytest.param(NAN[: JUDGED * LEAST - 1], False, id="a judgement on candidates is believed later"),
        pytest.param(NAN[: JUDGED * LEAST], True, id="a judgement on that many"),
        pytest.param([], False, id="nothing yet"),
    ],
)
def test_so_many_must_fail_alike(outcomes: list[Outcome], stops: bool) -> None:
    """Numbers aside, the reason is the same, nobody has passed since, and more are wanted the more did before."""
    assert (failed_repeatedly(numbered(outcomes)) is not None) == stops


def test_what_failed_is_written_and_read() -> None:
    """A model keeps why it could not be trained."""
    assert from_json(to_json(BROKEN[0])) == BROKEN[0]
    assert from_json(to_json(UNBUILT[0])) == UNBUILT[0]


class Failing:
    """Evaluates as a problem does, and fails on what is compressed until it is fixed."""

    def __init__(self, problem: AnalyticEvaluator, rung: str, good: int = 0) -> None:
        self.problem, self.rung, self.good = problem, rung, good
        self.seen: list[Candidate] = []

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Fail in building, or in training."""
        found = self.problem.evaluate(request)
        if request.unchanged or isinstance(found, Infeasible):
            return found
        self.seen.append(request.candidate)
        if len(self.seen) <= self.good:
            return (replace(found[0], epochs=1.0),)
        failure = raised(f"RuntimeError: {len(self.seen)} labels", self.rung)
        return failure if self.rung == "build" else (replace(found[0], epochs=0.0, failure=failure),)


def test_the_search_stops_and_keeps_what_was_scored(search: Search, small: AnalyticEvaluator) -> None:
    """The first few that fail in training are the last ones, and stand as they were before it."""
    evaluator = Failing(small, "train")
    store = search(small, trials=30, evaluator=evaluator)
    assert len(evaluator.seen) == LEAST
    assert len([m for m in store.models() if m.measurement.failure is not None]) == LEAST
    assert store.count() < 30


def test_nothing_scored_is_an_error_of_the_study(search: Search, small: AnalyticEvaluator) -> None:
    """The message has the reason and the way out."""
    evaluator = Failing(small, "build")
    with pytest.raises(StudyError, match=r"3 candidates could not be built.*RuntimeError: 3 labels\. Fix that"):
        search(small, trials=30, evaluator=evaluator)
    assert len(evaluator.seen) == LEAST


def test_one_that_goes_well_lets_the_search_go_on(search: Search, small: AnalyticEvaluator) -> None:
    """Then more must fail."""
    evaluator = Failing(small, "train", good=1)
    search(small, trials=30, evaluator=evaluator)
    assert len(evaluator.seen) == 1 + 2 * LEAST


@pytest.mark.parametrize("rung", ["build", "train"])
def test_a_mended_study_goes_on_with_what_failed(search: Search, small: AnalyticEvaluator, rung: str) -> None:
    """The next run tries those again before all others, and ends with all that a whole run has."""
    broken, mended = Failing(small, rung), Failing(small, rung, good=1000)
    if rung == "build":
        with pytest.raises(StudyError):
            search(small, trials=30, evaluator=broken)
    else:
        search(small, trials=30, evaluator=broken)
    store = search(small, trials=30, evaluator=mended)
    assert mended.seen[: len(broken.seen)] == broken.seen
    assert not [m for m in store.models() if m.measurement.failure is not None]
    assert store.count() == 30


def test_a_study_that_was_not_mended_stops_again(search: Search, small: AnalyticEvaluator) -> None:
    """What failed before does not count twice: as many fail as before, and are the same ones."""
    first, again = Failing(small, "train"), Failing(small, "train")
    search(small, trials=30, evaluator=first)
    search(small, trials=30, evaluator=again)
    assert again.seen == first.seen


def mistaken(model: nn.Module, batch: Batch) -> Tensor:
    """Raise, as a loss does that was never tried in training mode."""
    if model.training:
        raise ValueError("two outputs are more than one")
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_a_model_is_kept_that_was_scored_before_its_training_failed(tmp_path: Path) -> None:
    """It is measured, has its files and a warning, and the traceback of the task's own code lies beside them."""
    torch.manual_seed(0)
    data = [(torch.randn(32, 4), torch.arange(32) % 2)]
    network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    task = Task(network, torch.ones(1, 4), data, data, loss=mistaken)
    unused: Any = None  # its latency is known
    ladder = Ladder(task, supplies_of(task), [runtimes.load("onnxruntime")])
    candidate = Candidate({"pruning_ratio": {"0": 0.5}})
    request = Request(folder="trials/00001", candidate=candidate, epochs=1.0, latencies=(LATENCY,))
    (measured,) = ladder.evaluate(request, Host(folder=tmp_path, meters={"": unused}))
    assert measured.failure is not None
    assert measured.failure.raised
    assert measured.failure.rung == "train"
    assert "ValueError: two outputs are more than one (raised in the task's `loss`" in measured.failure.reason
    assert "test_repeated_failures.py" in measured.failure.reason
    assert measured.epochs == 0
    assert measured.accuracy == measured.one_shot_accuracy
    assert measured.warnings == (f"it could not be trained, and is what it was before: {measured.failure.reason}",)
    folder = tmp_path / "trials" / "00001"
    assert {"model.onnx", "model.safetensors", "candidate.json", "error.txt"} <= {
        file.name for file in folder.iterdir()
    }
    assert "in mistaken" in (folder / "error.txt").read_text()
