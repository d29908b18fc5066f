"""Runs of analytic problems, as a report gets them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import autocompress
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible, Outcome, Window
from autocompress.pareto.front import ParetoFront, build_front, select
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import BASELINE, Model
from autocompress.profiles.profile import Profile
from autocompress.reports.report_data import ReportContext, build
from autocompress.reports.rows import ExampleCounts
from autocompress.search.samplers.initial_design import warm_start
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.uniform import uniform
from autocompress.storage.trials import Trial

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)

ABOUT = ReportContext(
    study={"format": 2, "study": "imaginary", "runtime": "analytic", "threads": "1", "batch": "1", "device": "here"},
    folder="runs/imaginary",
    command="autocompress imaginary.py --target-latency 4ms --out runs/imaginary",
    calibration={"environment": {"cpu": "Imaginary 9000", "python": "3.11"}},
    scored=ExampleCounts(validation=500, test=400),
)


@dataclass(frozen=True)
class Told:
    """A run as a report gets it."""

    front: ParetoFront
    trials: tuple[Trial, ...]
    profile: Profile

    def data(self, about: ReportContext = ABOUT, **how: Any) -> dict[str, Any]:
        """Return what the report tells."""
        return build(self.front, self.trials, self.profile, about, **how)


Tell = Callable[..., Told]


def measured(outcome: Outcome, runtimes: Sequence[str]) -> Outcome:
    """Return an outcome with the seconds that its rungs took, on several runtimes; a failed one is of the first."""
    if isinstance(outcome, Infeasible):
        assert outcome.latency is not None
        return replace(outcome, latency=replace(outcome.latency, runtime=runtimes[0]))
    (one,) = outcome
    seconds = {"build": 2.0, "train": 5.0}
    return tuple(replace(one, latency=replace(one.latency, runtime=name), seconds=seconds) for name in runtimes)


def finals(models: Sequence[Model]) -> list[Model]:
    """Return models as the end of a run leaves them."""
    return [
        replace(
            model,
            path=BASELINE if model.role == BASELINE else f"models/{model.id}",
            measurements=tuple(
                replace(m, rung="final", test_accuracy=m.accuracy - 0.01, memory_bytes=5_000_000)
                for m in model.measurements
            ),
        )
        for model in models
    ]


@pytest.fixture(scope="session")
def tell() -> Tell:
    """Return what makes a run: its baseline, what anybody would try first, and candidates by chance."""

    def make(
        count: int = 60,
        *,
        layers: int = 6,
        target_ms: float = 4.0,
        ended: bool = True,
        broken: str = "",
        runtimes: Sequence[str] = ("analytic",),
        seed: int = 0,
    ) -> Told:
        problem, rng = AnalyticEvaluator(layers), random.Random(seed)
        profile = Profile.from_dict(problem.profile())
        starts = warm_start(problem.space, profile, target_ms)
        trials: list[Trial] = []
        models: list[Model] = []
        for number in range(count):
            role = starts[number].role if number < len(starts) else ""
            if number < len(starts):
                levels = problem.space.levels(starts[number].candidate)
            else:
                strength = rng.random()
                sizes = problem.space.sizes.items()
                levels = {name: int(rng.random() < strength) * rng.randrange(size) for name, size in sizes}
            candidate = problem.space.candidate(levels)
            request = Request(folder="", candidate=candidate, epochs=0, target_ms=None if role else target_ms)
            outcome = problem.evaluate(request)
            if broken and number % 7 == 6 and not role:
                outcome = Infeasible(reason=broken, rung="build")
            else:
                outcome = measured(outcome, runtimes)
            began = BEGAN + timedelta(seconds=10 * number)
            trial = Trial(
                number=number,
                state="complete" if isinstance(outcome, tuple) else "pruned",
                role=role,
                levels=levels,
                candidate=candidate,
                outcome=outcome,
                began=began,
                ended=began + timedelta(seconds=8),
            )
            trials.append(trial)
            if isinstance(outcome, tuple):
                name = BASELINE if role == BASELINE else trial.id
                models.append(Model(id=name, candidate=candidate, measurements=outcome, role=role or "front"))
        limits = Limits(target_ms)
        front = build_front(models, profile, limits)
        if ended:
            front = build_front(finals([front.baseline, *_own(front, models)]), profile, limits)
        return Told(front, tuple(trials), profile)

    return make


def _own(front: ParetoFront, models: Sequence[Model]) -> list[Model]:
    """Return the models of a front with all that was measured of them."""
    kept = {model.id for each in (front, *front.portfolio) for model in (*each.models, *each.references)}
    return [model for model in models if model.id in kept]


def as_errors(told: Told) -> Told:
    """Return a run whose metric is a negative error."""

    def changed(model: Model) -> Model:
        it = model.measurement
        test = None if it.test_accuracy is None else it.test_accuracy - 1.25
        return replace(model, measurements=(replace(it, accuracy=it.accuracy - 1.25, test_accuracy=test),))

    front = told.front
    models, references = (tuple(map(changed, each)) for each in (front.models, front.references))
    return replace(told, front=replace(front, models=models, references=references, baseline=changed(front.baseline)))


def slower(told: Told) -> Told:
    """Return a run whose recommended model is 1.16 times slower and twice as large as the baseline, and better."""

    def changed(model: Model) -> Model:
        it = model.measurement
        windows = (Window(baseline_ns=(100,), candidate_ns=(116,)),) * 3
        latency = replace(it.latency, windows=windows)
        return replace(model, measurements=(replace(it, latency=latency, accuracy=0.999, size_bytes=2 * size),))

    front = told.front
    size = front.baseline.measurement.size_bytes
    limits = replace(front.limits, target_ms=1000.0)
    return replace(
        told, front=replace(front, limits=limits, models=tuple(map(changed, front.models[:1])), references=())
    )


PROBLEM = AnalyticEvaluator(3)


PROFILE = Profile.from_dict(PROBLEM.profile())


def model(name: str, candidate: Candidate, role: str = "front") -> Model:
    """Return a model as the end of a run leaves it."""
    (measured,) = PROBLEM.evaluate(Request(folder="", candidate=candidate, epochs=0, test=True))
    large = replace(measured, size_bytes=measured.size_bytes * 1000)
    return Model(id=name, candidate=candidate, measurements=(large,), role=role, path=f"models/{name}")


def front_for(target_ms: float) -> ParetoFront:
    """Return the front of all candidates of the problem, with two reference baselines."""
    every = [model(f"{i:05d}", candidate) for i, (candidate, _) in enumerate(PROBLEM.everything())]
    chosen = [every[i] for i in select([m.measurement for m in every], Limits(target_ms))][:8]
    references = [
        model("00001", uniform(PROBLEM.space, 0.0, quantized=True), "uniform int8"),
        model("00003", uniform(PROBLEM.space, 0.375, quantized=True), "uniform int8 −38%"),
    ]
    front = ParetoFront(
        limits=Limits(target_ms),
        baseline=model("baseline", Candidate(), "baseline"),
        models=tuple(chosen),
        references=tuple(references),
        floor_ms=PROFILE.floor_ms,
    )
    return front if front.meets_target else replace(front, reasons=PROFILE.reasons())


@pytest.fixture(scope="module")
def front(made_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> ParetoFront:
    """Return the front of a run, by the public names alone."""
    opened = autocompress.open_run(made_run(tmp_path_factory.mktemp("runs") / "run", trials=24))
    found = opened.front()
    assert isinstance(found, autocompress.ParetoFront)
    return found
