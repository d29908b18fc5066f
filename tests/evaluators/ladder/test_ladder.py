"""The ladder: each rung stops a candidate for its own reason, and what is measured before that is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.evaluators import runtimes
from autocompress.evaluators.evaluator import Host, Request
from autocompress.evaluators.ladder import engines, ladder
from autocompress.evaluators.ladder import rungs as module
from autocompress.evaluators.ladder.ladder import Ladder
from autocompress.evaluators.ladder.rungs import Rungs
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Outcome
from autocompress.evaluators.meters.latency import FAST_MS, FakeMeter, Plan
from autocompress.evaluators.promotion import Promotion
from autocompress.evaluators.scores import packed
from autocompress.spaces.candidate import Candidate
from autocompress.studies.task import Batch, Task, cross_entropy

HALF = Candidate({"pruning_ratio": {"0": 0.5}})
FOLDER = "trials/00001"


@dataclass(frozen=True, kw_only=True)
class Device(FakeMeter):
    """A fake meter with a device's name; it is so many times slower, or crashes, and tells memory and energy."""

    name: str = ""
    slower: float = 1.0
    crashes: bool = False
    plans: list[Plan] | None = None

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Return the known latency, or refuse."""
        if self.crashes:
            raise InfeasibleError("the runtime crashed", rung="latency")
        latency = super().measure(artefact, plan)
        if self.plans is not None:  # as if it were timed
            self.plans.append(plan)
            latency = replace(latency, processes=plan.processes)
        return replace(latency, device=self.name, baseline_ms=self.slower * latency.baseline_ms)

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return the file's bytes."""
        return len(artefact)

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        """Return a millijoule."""
        return 1.0


def untouched(model: nn.Module, batch: Batch) -> Tensor:
    """Raise where a model is trained."""
    if model.training:
        raise AssertionError("it was trained")
    return cross_entropy(model, batch)


Evaluate = Callable[..., Outcome]


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Return a function that evaluates a small network with half of its channels; the metric's values are given."""

    def evaluate(
        *accuracies: float,
        loss: Any = untouched,
        meters: tuple[Device, ...] = (),
        candidate: Candidate = HALF,
        compact: bool = False,
        **how: Any,
    ) -> Outcome:
        torch.manual_seed(0)
        data = [(torch.randn(16, 4), torch.arange(16) % 2)]
        network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
        left: Iterator[float] = iter(accuracies)
        task = Task(network, torch.ones(1, 4), data, data, test=data, loss=loss, metric=lambda *_: next(left))
        supplies = supplies_of(task)
        baseline = apply_candidate(task, Candidate(), supplies, epochs=0).onnx
        devices = meters or (Device(baseline=b""),)
        host = Host(folder=tmp_path, meters={it.name: replace(it, baseline=baseline) for it in devices})
        request = Request(folder=FOLDER, candidate=candidate, **{"epochs": 0.0, **how})
        return Ladder(task, supplies, [runtimes.load("fake")], compact=compact).evaluate(request, host)

    return evaluate


def one(outcome: Outcome) -> Measurement:
    """Return the only measurement of an outcome."""
    assert not isinstance(outcome, Infeasible), outcome
    [measured] = outcome
    return measured


def why(outcome: Outcome) -> Infeasible:
    """Return why a candidate is infeasible."""
    assert isinstance(outcome, Infeasible)
    return outcome


def test_a_candidate_is_measured_and_its_files_are_written(evaluate: Evaluate, tmp_path: Path) -> None:
    """It passes build, latency, one-shot, training and accuracy; the folder has the models and no rung any more."""
    measured = one(evaluate(0.5, 0.9, epochs=1.0, loss=cross_entropy))
    assert (measured.accuracy, measured.one_shot_accuracy, measured.epochs) == (0.9, 0.5, 1.0)
    assert list(measured.seconds) == ["build", "latency", "one-shot", "train", "accuracy"]
    assert (measured.rung, measured.test_accuracy, measured.warnings) == ("short", None, ())
    names = {"model.onnx", "canonical.onnx", "candidate.json", "written.json", "model.safetensors", "predictions.npz"}
    assert {file.name for file in (tmp_path / FOLDER).iterdir()} == names | {"shapes.safetensors"}
    assert measured.size_bytes == (tmp_path / FOLDER / "model.onnx").stat().st_size


def test_a_compact_file_counts_where_it_is_wanted(evaluate: Evaluate, tmp_path: Path) -> None:
    """It lies beside the runtime's own file, and its bytes are the model's size."""
    measured = one(evaluate(0.5, compact=True))
    assert measured.size_bytes == (tmp_path / FOLDER / "model.acz").stat().st_size


def test_a_training_that_made_it_worse_is_not_kept(evaluate: Evaluate) -> None:
    """The model from before the training is the result."""
    measured = one(evaluate(0.9, 0.5, epochs=1.0, loss=cross_entropy))
    assert (measured.accuracy, measured.epochs) == (0.9, 0.0)
    assert "train" in measured.seconds


def test_a_training_that_fails_leaves_the_untrained_model(evaluate: Evaluate, tmp_path: Path) -> None:
    """The result says so in a warning, and the traceback of the user's code is kept."""
    measured = one(evaluate(0.5, epochs=1.0))
    assert measured.failure is not None
    assert (measured.failure.rung, measured.failure.raised, measured.epochs) == ("train", True, 0.0)
    assert measured.warnings[0].startswith("it could not be trained, and is what it was before: AssertionError")
    assert "it was trained" in (tmp_path / FOLDER / "error.txt").read_text()


@pytest.mark.parametrize(
    ("target", "processes"),
    [(1e9, 1), (1.0, 3), (1e-9, 1), (None, 1)],
    ids=["clearly fast enough", "near the target", "clearly too slow", "without a target"],
)
def test_only_what_is_near_the_target_is_timed_by_several_processes(
    target: float | None, processes: int, evaluate: Evaluate
) -> None:
    """One process tells whether a fast candidate meets a target that is far from its latency."""
    plans: list[Plan] = []
    meters = (Device(baseline=b"", plans=plans),)
    latency_ms = one(evaluate(0.9, meters=meters)).latency.median_ms
    plans.clear()
    outcome = evaluate(0.9, meters=meters, target_ms=target and target * latency_ms)
    found = outcome.latency if isinstance(outcome, Infeasible) else one(outcome).latency
    assert found is not None
    assert found.median_ms == pytest.approx(latency_ms)
    assert latency_ms < FAST_MS
    assert sum(plan.processes for plan in plans) == found.processes == processes


PROMOTION = Promotion(slope=0.0, intercept=0.6, give=0.0, rivals=((0.9, 0.0, 0),))


@pytest.mark.parametrize(
    ("rung", "reason", "how"),
    [
        ("build", "its time of -1 s was over (--trial-timeout gives more)", {"timeout_s": -1.0}),
        ("latency", "is over the target of 0.001 ms", {"target_ms": 0.001}),
        ("size", "is over the limit of", {"max_size_bytes": 1.0}),
        ("memory", "is over the limit of", {"max_memory_bytes": 1.0, "also": ("memory",)}),
        ("energy", "is over the limit of", {"max_energy_mj": 0.5, "also": ("energy",)}),
        ("one-shot", "60.00% is the optimistic estimate, the front has 90.00%", {"promotion": PROMOTION}),
    ],
)
def test_a_limit_stops_a_candidate_before_its_training(
    evaluate: Evaluate, tmp_path: Path, rung: str, reason: str, how: dict[str, Any]
) -> None:
    """The reason names the value and the limit, the rung is the one that was reached, and no model is kept."""
    stopped = why(evaluate(0.5, epochs=1.0, **how))
    assert stopped.rung == rung
    assert reason in stopped.reason
    assert not stopped.raised
    assert (stopped.latency is None) == (rung == "build")
    assert stopped.one_shot_accuracy == (0.5 if rung == "one-shot" else None)
    assert not (tmp_path / FOLDER / "model.onnx").exists()


def test_a_spared_candidate_is_trained_all_the_same(evaluate: Evaluate) -> None:
    """Its measurement has the doubt."""
    how = {"epochs": 1.0, "loss": cross_entropy, "promotion": replace(PROMOTION, spared=True)}
    rivals = replace(PROMOTION, spared=True, rivals=((0.9, 1e9, 0),))
    assert "60.00% is the optimistic estimate" in one(evaluate(0.5, 0.7, **how)).doubted
    assert one(evaluate(0.5, 0.7, **{**how, "promotion": rivals})).doubted == ""


def test_a_metric_must_be_finite(evaluate: Evaluate) -> None:
    """Another number is the candidate's reason, with the data on which it came."""
    stopped = why(evaluate(float("nan")))
    assert stopped.rung == "one-shot"
    assert stopped.reason == "the metric must be a finite number; on the validation data it is nan"


def test_the_final_evaluation_scores_the_test_data(evaluate: Evaluate, tmp_path: Path) -> None:
    """It is the only one to do so, and keeps no weights for other trials."""
    measured = one(evaluate(0.5, 0.4, test=True))
    assert (measured.accuracy, measured.test_accuracy, measured.rung) == (0.5, 0.4, "trained")
    assert not (tmp_path / FOLDER / "shapes.safetensors").exists()


def test_what_is_known_is_only_completed(evaluate: Evaluate) -> None:
    """A cost that an earlier run did not measure is added, without a score or a training."""
    known = one(evaluate(0.5))
    found = one(evaluate(known=(known,), latencies=(known.latency,), also=("energy",), epochs=1.0))
    assert found == replace(known, energy_mj=1.0)


def test_a_latency_that_is_known_is_not_measured_again(evaluate: Evaluate) -> None:
    """A request with latencies needs no meter."""
    known = one(evaluate(0.5)).latency
    measured = one(evaluate(0.5, latencies=(known,), meters=(Device(baseline=b"", crashes=True),)))
    assert measured.latency == known
    assert "latency" not in measured.seconds


def test_a_candidate_has_a_measurement_for_each_device(evaluate: Evaluate) -> None:
    """The slowest device decides, and so is the first; a device that crashes stops the candidate."""
    fast, slow = Device(baseline=b"", name="fast"), Device(baseline=b"", name="slow", slower=3.0)
    outcome = evaluate(0.5, meters=(fast, slow))
    assert isinstance(outcome, tuple)
    assert [m.latency.device for m in outcome] == ["slow", "fast"]
    assert outcome[0].latency.median_ms == pytest.approx(3 * outcome[1].latency.median_ms)
    stopped = why(evaluate(0.5, meters=(fast, replace(slow, crashes=True))))
    assert (stopped.reason, stopped.rung) == ("on slow: the runtime crashed", "latency")


def test_waiting_for_a_meter_takes_no_time_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline moves by the seconds that the trial has waited; the rung's file names where it is."""
    waited = [0.0]
    monkeypatch.setattr(module, "waited_s", lambda: waited[0])
    rungs = Rungs(tmp_path, timeout_s=-1.0)
    with pytest.raises(InfeasibleError, match="its time of -1 s was over") as caught, rungs.on("latency"):
        pytest.fail("it was entered")
    assert caught.value.rung == "latency"
    waited[0] = 60.0
    assert rungs.left_s > 50
    with rungs.on("train"):
        assert (tmp_path / "rung").read_text() == "train"
    assert list(rungs.seconds) == ["train"]


@pytest.fixture
def scored_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Outcome, list[int]]]:
    """Return a function that evaluates with the default metric, and gives the number of batches of each scoring."""

    def evaluate(**how: Any) -> tuple[Outcome, list[int]]:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
        x = torch.randn(400, 4)
        with torch.no_grad():
            data = [(x, network(x).argmax(1))] * 20
        task = Task(network, torch.ones(1, 4), data[:2], data, test=data, loss=how.pop("loss", cross_entropy))
        found: list[int] = []
        score = ladder.accuracy
        monkeypatch.setattr(ladder, "accuracy", lambda *args: found.append(len(args[-1])) or score(*args))
        supplies = supplies_of(task)
        meter = FakeMeter(baseline=apply_candidate(task, Candidate(), supplies, epochs=0).onnx)
        request = Request(folder=FOLDER, candidate=HALF, **{"epochs": 1.0, **how})
        host = Host(folder=tmp_path, meters={"": meter})
        return Ladder(task, supplies, [runtimes.load("fake")]).evaluate(request, host), found

    return evaluate


def test_a_part_of_the_data_tells_whether_a_candidate_is_worth_its_training(
    scored_batches: Callable[..., tuple[Outcome, list[int]]],
) -> None:
    """The models before and after the training are compared on it, and the better one is scored on all of them."""
    outcome, batches = scored_batches(epochs=4.0)
    assert one(outcome).epochs == 4.0
    assert batches == [4, 4, 20]
    assert scored_batches(epochs=0.0)[1] == [20]


def test_a_candidate_as_accurate_as_the_unchanged_network_is_not_trained(
    scored_batches: Callable[..., tuple[Outcome, list[int]]],
) -> None:
    """On the examples that it was scored on, and if no training is predicted to do more."""
    places = np.arange(8000) // 400 % 5 == 0
    as_good, better = (packed(np.where(places, here, 1 - here).astype(float)) for here in (0.0, 1.0))
    promotion = Promotion(slope=0.0, intercept=0.0, give=1.0, rivals=(), unchanged=as_good)
    outcome, batches = scored_batches(promotion=promotion, loss=untouched)
    assert (one(outcome).epochs, one(outcome).failure, batches) == (0.0, None, [4, 20])
    assert list(one(outcome).seconds) == ["build", "latency", "one-shot"]
    for other in (
        replace(promotion, unchanged=better),
        replace(promotion, intercept=1.0),
        replace(promotion, unchanged=""),
    ):
        assert one(scored_batches(promotion=other, epochs=4.0)[0]).epochs == 4.0


def test_the_untrained_model_that_stays_is_scored_on_all_of_the_data(
    scored_batches: Callable[..., tuple[Outcome, list[int]]],
) -> None:
    """It stays where the training failed, even at the end of its time."""
    outcome, batches = scored_batches(loss=untouched)
    assert (one(outcome).epochs, batches) == (0.0, [4, 20])
    assert one(outcome).one_shot_accuracy == one(outcome).accuracy  # every batch is the same


def test_a_file_has_one_engine_whatever_is_asked_of_it(evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parity, both scores and the outputs that are kept take one engine before the training and one after it."""
    built = []
    make = engines.engine
    monkeypatch.setattr(engines, "engine", lambda *args, **how: built.append(args[1]) or make(*args, **how))
    one(evaluate(0.5, 0.9, 0.8, epochs=1.0, loss=cross_entropy, test=True))
    assert len(built) == len(set(built)) == 2


def test_fewer_examples_give_the_statistics_of_what_is_to_be_trained(
    evaluate: Evaluate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those for the ranges of activations; what is left untrained gets all."""
    taken = []
    build = ladder.build_candidate

    def noted(request: Request, task: Task, supplies: Supplies, *args: Any, **how: Any) -> Any:
        taken.append(supplies.statistics is supplies.calibration)
        return build(request, task, supplies, *args, **how)

    monkeypatch.setattr(ladder, "build_candidate", noted)
    one(evaluate(0.5, 0.9, epochs=1.0, loss=cross_entropy))
    one(evaluate(0.5))
    assert taken == [True, False, False]
