"""The end of a run: which models are taken to it, and what an interruption or a failure leaves of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocompress.errors import InfeasibleError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Measurements, Outcome, ranked
from autocompress.evaluators.meters.latency import Plan
from autocompress.evaluators.runtime import Kernel
from autocompress.evaluators.scores import packed
from autocompress.pareto.front import select
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import Model
from autocompress.search.careful_measurement import ROUNDS
from autocompress.search.dispatch import RunContext
from autocompress.search.final_evaluation import FinalEvaluation, read_record, with_trial_results
from autocompress.search.finalists import ALONE, FINALISTS, FIRST, finalists, likely_finalists, too_slow_for_sure
from autocompress.search.interrupts import Interrupted
from autocompress.search.options import Options
from autocompress.search.progress import Silent
from autocompress.search.requests import FINAL, TRIAL, seed_of
from autocompress.search.workers.inline import InlineWorkers
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

TARGET_MS = 4.0
LIMITS = Limits(TARGET_MS)


def served(measurements: Measurements) -> Measurements:
    """Return measurements as of the runtime that the run asks for."""
    return tuple(replace(each, latency=replace(each.latency, runtime="onnxruntime")) for each in measurements)


class Trainer:
    """Evaluates as the problem does, leaves a file as real training does, and does what the test asks besides."""

    def __init__(self, folder: Path, problem: AnalyticEvaluator, spoil: Callable[[Request, Outcome], Outcome]) -> None:
        self.folder = folder
        self.problem = problem
        self.spoil = spoil
        self.requests: list[Request] = []

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate, write a model file, spoil."""
        self.requests.append(request)
        (self.folder / request.folder).mkdir(parents=True, exist_ok=True)
        (self.folder / request.folder / "model.onnx").write_bytes(request.candidate.to_json().encode())
        outcome = self.problem.evaluate(request)
        return self.spoil(request, outcome if isinstance(outcome, Infeasible) else served(outcome))


class Clock:
    """Measures what the problem says, three windows a turn; may be interrupted."""

    def __init__(self, models: list[Model]) -> None:
        self.known = {m.candidate.to_json().encode(): m.measurement.latency for m in models}
        self.turns = 0
        self.interrupt_at = -1

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Return the known latency."""
        self.turns += 1
        if self.turns == self.interrupt_at:
            raise Interrupted
        return self.known[artefact]

    def memory(self, artefact: bytes, *, runtime: str | None = None) -> int | None:
        """Return the length of the file."""
        return len(artefact)

    def energy(self, artefact: bytes, *, runtime: str | None = None) -> float | None:
        """Return a tenth of a millijoule for each byte."""
        return 0.1 * len(artefact)

    def kernels(self, artefact: bytes, *, runtime: str | None = None) -> list[Kernel]:
        """Return nothing."""
        return []


@pytest.fixture
def models(search: Callable[..., StudyStore], small: AnalyticEvaluator) -> list[Model]:
    """Return what a search has measured."""
    return [replace(m, measurements=served(m.measurements)) for m in search(small, trials=60).models()]


@pytest.fixture
def rundir(tmp_path: Path) -> Iterator[RunDirectory]:
    """Return an empty run directory."""
    held = RunDirectory(tmp_path / "finals", {"study": "finals"})
    yield held
    held.close()


def unspoiled(request: Request, outcome: Outcome) -> Outcome:
    """Return the outcome as it is."""
    return outcome


def finals(rundir: RunDirectory, trainer: Trainer, clock: Clock | dict[str, There], **limits: float) -> FinalEvaluation:
    """Return the end of a run with ten passes over the training data."""
    options = Options(out=rundir.path, workers=0, **{"target_ms": TARGET_MS, **limits})  # type: ignore[arg-type]
    context = RunContext(options=options, rundir=rundir, workers=InlineWorkers(trainer), epochs=1.0, final_epochs=10.0)
    meters: Any = clock if isinstance(clock, dict) else {"": clock}
    return FinalEvaluation(context, meters)


def trained_to_the_end(models: list[Model]) -> list[Model]:
    """Return the finalists but those that nothing can bring within the limits."""
    chosen = finalists(models, LIMITS)
    late = too_slow_for_sure(chosen, LIMITS)
    return [m for m in chosen if m not in late]


def test_finalists_are_the_best_part_of_the_front(models: list[Model]) -> None:
    """The baselines come first, then at most so many of the front, its most accurate model among them."""
    chosen = finalists(models, LIMITS)
    front = [m for m in chosen if m.role == "front"]
    whole = [models[i] for i in select([m.measurement for m in models], LIMITS)]
    assert [m for m in chosen if m.role != "front"] == [m for m in models if m.role != "front"]
    assert 0 < len(front) <= FINALISTS
    assert {m.id for m in front} <= {m.id for m in whole}
    assert front[0].measurement.accuracy == max(m.measurement.accuracy for m in whole if m.role == "front")


def test_nothing_is_taken_to_the_end_without_a_baseline(models: list[Model]) -> None:
    """What cannot be compared to anything is no finalist."""
    assert finalists([m for m in models if m.role == "front"], LIMITS) == []


def test_reference_baselines_that_are_surely_late_stay_as_their_trials_left_them(
    rundir: RunDirectory, small: AnalyticEvaluator, models: list[Model]
) -> None:
    """They are neither trained nor measured again, until a looser target can be met by them."""
    whole = next(m.measurement for m in models if m.role == "front" and LIMITS.satisfied_by(m.measurement))
    slow = replace(whole, latency=replace(whole.latency, baseline_ms=3 * TARGET_MS / whole.latency.ratio), accuracy=1.0)
    reference = Model(
        id="90000", candidate=models[1].candidate, measurements=(slow,), role="uniform", path="trials/90000"
    )
    Trainer(rundir.path, small, unspoiled).evaluate(
        Request(folder=reference.path, candidate=reference.candidate, epochs=1)
    )
    chosen = [*trained_to_the_end(models), reference]
    trainer, clock = Trainer(rundir.path, small, unspoiled), Clock(chosen)
    *_, left = finals(rundir, trainer, clock).run(chosen)
    assert (left.id, left.measurement) == (reference.id, slow)
    assert (rundir.path / left.path / "model.onnx").is_file()
    assert "models/90000" not in {request.folder for request in trainer.requests}
    finals(rundir, trainer, clock, target_ms=4 * TARGET_MS).run(chosen)
    assert "models/90000" in {request.folder for request in trainer.requests}


def test_where_nothing_meets_the_limits_all_finalists_are_taken_to_the_end(models: list[Model]) -> None:
    """Then a reference baseline may be the nearest."""
    chosen = finalists(models, Limits(1e-6))
    assert too_slow_for_sure(chosen, Limits(1e-6)) == []


def made(name: str, accuracy: float, ratio: float, like: Measurement, role: str = "front") -> Model:
    """Return a model that was trained for one pass, of a share of the target's latency."""
    latency = replace(like.latency, baseline_ms=ratio * TARGET_MS / like.latency.ratio)
    measured = replace(like, accuracy=accuracy, latency=latency, epochs=1.0)
    return Model(id=name, candidate=Candidate(), measurements=(measured,), role=role)


@pytest.fixture
def ladder(models: list[Model]) -> list[Model]:
    """Return a baseline and models that get faster and less accurate, and one that is dominated by a little."""
    whole = replace(models[0].measurement, size_bytes=1000)
    like = replace(whole, size_bytes=500)
    steps = [(f"0000{i}", 0.9 - 0.02 * i, 0.9 - 0.1 * i) for i in range(8)]
    fronts = [made(name, accuracy, ratio, like) for name, accuracy, ratio in steps]
    return [made("baseline", 0.91, 3.0, whole, "baseline"), *fronts, made("00009", 0.83, 0.61, like)]


def test_who_may_yet_gain_much_is_taken_to_the_end_next(ladder: list[Model]) -> None:
    """One that is dominated by a model which training did not help has its turn, and nobody has two."""
    helped = {m.id: m.measurement.accuracy + 0.08 for m in ladder if m.role == "front" and m.id != "00009"}
    assert [m.id for m in likely_finalists(ladder, {**helped, "00003": 0.85}, LIMITS)] == ["00009"]
    first = [m for m in finalists(ladder, LIMITS, FIRST) if m.role == "front"]
    found = likely_finalists(ladder, {m.id: m.measurement.accuracy + 0.01 for m in first}, LIMITS)
    assert 0 < len(found) <= FINALISTS - FIRST
    assert not {m.id for m in found} & {m.id for m in first}


def test_nobody_is_taken_to_the_end_who_can_add_nothing(ladder: list[Model]) -> None:
    """What stays dominated, whatever the others gained, is left where it is; so is what misses the limits."""
    ended = {m.id: m.measurement.accuracy + 0.01 for m in ladder if m.id != "00009"}
    assert likely_finalists(ladder, ended, LIMITS) == []
    slow = [replace(m, measurements=(made(m.id, 0.9, 1.5, m.measurement).measurement,)) for m in ladder]
    assert likely_finalists(slow, {"baseline": 0.91}, LIMITS) == []


def test_more_models_are_taken_to_the_end_once_the_first_were(
    rundir: RunDirectory, small: AnalyticEvaluator, models: list[Model]
) -> None:
    """They are chosen by what became of the first; a second run finds all of them done."""
    chosen, *more = trained_to_the_end(models)[:-1], trained_to_the_end(models)[-1]
    trainer = Trainer(rundir.path, small, unspoiled)
    asked: list[set[str]] = []

    def then(accuracies: Mapping[str, float]) -> list[Model]:
        asked.append(set(accuracies))
        return more

    done = finals(rundir, trainer, Clock([*chosen, *more])).run(chosen, then)
    assert [m.id for m in done] == [m.id for m in (*chosen, *more)]
    assert asked == [{m.id for m in chosen}]
    requests = len(trainer.requests)
    assert finals(rundir, trainer, Clock([*chosen, *more])).run(chosen, then) == done
    assert len(trainer.requests) == requests


def test_each_finalist_is_trained_scored_and_measured(
    rundir: RunDirectory, small: AnalyticEvaluator, models: list[Model]
) -> None:
    """Every finalist has a final record on disk, made of at least as many windows as the careful plan wants."""
    chosen = trained_to_the_end(models)
    trainer = Trainer(rundir.path, small, unspoiled)
    done = finals(rundir, trainer, Clock(chosen)).run(chosen)
    assert [m.id for m in done] == [m.id for m in chosen]
    assert {request.epochs for request in trainer.requests} <= {0.0, 10.0}
    assert all(request.test for request in trainer.requests)
    for model in done:
        assert read_record(rundir.path / model.path) == model.measurements
        assert model.measurement.rung == "final"
        assert len(model.measurement.latency.windows) >= ROUNDS.min_windows


def test_a_longer_training_stays_that_is_worse_by_chance_alone(
    rundir: RunDirectory, small: AnalyticEvaluator, models: list[Model]
) -> None:
    """Of two trainings the longer one is kept unless it loses more than a standard error on the same examples."""
    before, after = (packed(np.repeat([0.0, 1.0, 0.0], each)) for each in ([0, 160, 40], [3, 159, 38]))

    def spoil(request: Request, outcome: Outcome) -> Outcome:
        if request.epochs < 10.0 or isinstance(outcome, Infeasible):
            return outcome
        return (replace(outcome[0], accuracy=0.795, scores=after),)

    chosen = [
        replace(m, measurements=(replace(m.measurement, accuracy=0.8, epochs=1.0, scores=before),))
        for m in trained_to_the_end(models)
        if m.role == "front"
    ][:1]
    trainer = Trainer(rundir.path, small, spoil)
    (done,) = finals(rundir, trainer, Clock(chosen)).run(chosen)
    assert done.measurement.accuracy == 0.795
    assert {request.epochs for request in trainer.requests} == {10.0}


def test_what_longer_training_spoils_is_trained_as_in_its_trial(
    rundir: RunDirectory, small: AnalyticEvaluator, models: list[Model]
) -> None:
    """A model that ends worse, or not at all, with the longer schedule gets the schedule and seed of its trial."""

    def spoil(request: Request, outcome: Outcome) -> Outcome:
        if request.epochs < 10.0 or isinstance(outcome, Infeasible):
            return outcome
        if request.folder == chosen[-1].path.replace("trials", "models"):
            return Infeasible(reason="the loss became nan", rung="train")
        return (replace(outcome[0], accuracy=0.0),)

    chosen = trained_to_the_end([replace(m, measurements=(replace(m.measurement, epochs=1.0),)) for m in models])
    trainer = Trainer(rundir.path, small, spoil)
    done = finals(rundir, trainer, Clock(chosen)).run(chosen)
    assert {m.id: m.measurement.accuracy for m in done} == {m.id: m.measurement.accuracy for m in chosen}
    assert {request.epochs for request in trainer.requests} == {0.0, 10.0, 1.0}
    for model in chosen:
        seeds = {r.epochs: r.seed for r in trainer.requests if Path(r.folder).name == model.id and r.epochs}
        wanted = {10.0: seed_of(0, model.id, FINAL), 1.0: seed_of(0, model.id, TRIAL)}
        assert seeds == {epochs: wanted[epochs] for epochs in seeds}


def test_passes_of_the_trial_count_where_its_weights_are_trained_on(
    rundir: RunDirectory, small: AnalyticEvaluator, models: list[Model]
) -> None:
    """A pruned model's final passes add to those of its trial; one that starts again has the final ones alone."""
    pruned, *_ = (m for m in trained_to_the_end(models) if m.candidate["pruning_ratio"])
    bits = replace(pruned, id="90001", candidate=Candidate({"bits": {"layer0": 8}}))
    chosen = [replace(m, measurements=(replace(m.measurement, epochs=1.0),), path="") for m in (pruned, bits)]
    done = finals(rundir, Trainer(rundir.path, small, better), Clock(chosen)).run(chosen)
    assert [m.measurement.epochs for m in done] == [11.0, 10.0]


def better(request: Request, outcome: Outcome) -> Outcome:
    """Return the outcome of a training that made every model perfect."""
    assert not isinstance(outcome, Infeasible)
    return (replace(outcome[0], accuracy=1.0, epochs=request.epochs),)


def on_both(measurement: Measurement) -> Measurements:
    """Return a measurement on two devices, of which the second is 1.5 times slower."""
    latency = measurement.latency
    each = (("gpu0", 1.0), ("edge", 1.5))
    return ranked(
        replace(measurement, latency=replace(latency, device=device, baseline_ms=factor * latency.baseline_ms))
        for device, factor in each
    )


def test_fronts_on_each_device_alone_are_taken_to_the_end_too(models: list[Model]) -> None:
    """Beside the front for all devices come the best of those that only the faster one runs in time."""
    both = [replace(m, measurements=on_both(m.measurement)) for m in models]
    chosen = [m for m in finalists(both, LIMITS) if m.role == "front"]
    assert {m.measurement.latency.device for m in chosen} == {"edge"}
    everywhere = [m for m in chosen if LIMITS.satisfied_by(m.measurement)]
    partly = [m for m in chosen if not LIMITS.satisfied_by(m.measurement)]
    whole = [both[i] for i in select([m.measurement for m in both], LIMITS)]
    assert len(everywhere) >= min(FINALISTS, sum(m.role == "front" for m in whole))
    assert 0 < len(partly) <= ALONE
    assert all(LIMITS.satisfied_by(m.measurements[1]) for m in partly)
    assert max(m.measurement.accuracy for m in partly) > max(m.measurement.accuracy for m in everywhere)


class There(Clock):
    """Is on a device, where one file cannot be measured."""

    def __init__(self, models: list[Model], device: str, file: bytes = b"") -> None:
        super().__init__(models)
        self.device = device
        self.file = file

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Refuse, or return the known latency with the device."""
        if artefact == self.file:
            raise InfeasibleError("it crashed", rung="latency")
        return replace(super().measure(artefact, plan), device=self.device)


def test_what_fails_on_one_of_the_devices_is_left_out(
    rundir: RunDirectory, small: AnalyticEvaluator, models: list[Model]
) -> None:
    """The others are measured on both, each with its own meter."""

    def spoil(request: Request, outcome: Outcome) -> Outcome:
        return outcome if isinstance(outcome, Infeasible) else on_both(outcome[0])

    chosen = trained_to_the_end(models)
    broken = chosen[-1].candidate.to_json().encode()
    clocks = {"gpu0": There(chosen, "gpu0"), "edge": There(chosen, "edge", broken)}
    ended = finals(rundir, Trainer(rundir.path, small, spoil), clocks).run(chosen)
    assert [m.id for m in ended] == [m.id for m in chosen[:-1]]
    for model in ended:
        assert sorted(m.latency.device for m in model.measurements) == ["edge", "gpu0"]


def test_an_interrupted_end_goes_on_without_training_again(
    rundir: RunDirectory, small: AnalyticEvaluator, models: list[Model]
) -> None:
    """What was trained before an interruption is only measured afterwards, and what was measured is left alone."""
    chosen = trained_to_the_end(models)
    trainer, clock = Trainer(rundir.path, small, unspoiled), Clock(chosen)
    clock.interrupt_at = len(chosen) + 2
    with pytest.raises(Interrupted):
        finals(rundir, trainer, clock).run(chosen)
    assert len(trainer.requests) == len(chosen)
    finals(rundir, trainer, clock).run(chosen)
    turns = clock.turns
    assert finals(rundir, trainer, clock).run(chosen)
    assert len(trainer.requests) == len(chosen)
    assert clock.turns == turns


def test_energy_is_added_to_what_was_finished_without(
    rundir: RunDirectory, small: AnalyticEvaluator, models: list[Model]
) -> None:
    """A limit on energy has each finished model measured once more, not trained; without one nobody counts joules."""
    chosen = trained_to_the_end(models)
    trainer, clock = Trainer(rundir.path, small, unspoiled), Clock(chosen)
    before = finals(rundir, trainer, clock).run(chosen)
    assert {m.measurement.energy_mj for m in before} == {None}
    after = finals(rundir, trainer, clock, max_energy_mj=3.0).run(chosen)
    assert len(trainer.requests) == len(chosen)
    files = {m.id: (rundir.path / m.path / "model.onnx").read_bytes() for m in after}
    assert {m.id: m.measurement.energy_mj for m in after} == {name: 0.1 * len(file) for name, file in files.items()}
    turns = clock.turns
    assert finals(rundir, trainer, clock, max_energy_mj=3.0).run(chosen) == after
    assert clock.turns == turns


def test_an_interrupted_search_leaves_models_as_found(rundir: RunDirectory, models: list[Model]) -> None:
    """Each model gets its folder with its trial's files and record, and says that it is not final."""
    chosen = trained_to_the_end(models)
    for model in chosen:
        (rundir.path / model.path).mkdir(parents=True)
        (rundir.path / model.path / "model.onnx").write_bytes(b"model")
    for model in with_trial_results(rundir, chosen, Silent()):
        assert (rundir.path / model.path / "model.onnx").read_bytes() == b"model"
        assert read_record(rundir.path / model.path) == model.measurements
        assert model.measurement.rung == "short"
