"""What workers are asked to evaluate: the request of a trial, and that of a final evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..compressors.stream import Stream, stream_of
from ..evaluators.evaluator import Request
from ..evaluators.ladder.trial_files import ANCESTOR, SHAPES
from ..evaluators.promotion import LATEST, Promotion, learned
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model
from ..spaces.candidate import Candidate
from ..storage.study_store import PendingTrial, StudyStore
from ..storage.trials import trial_name
from .dispatch import RunContext
from .inheritance import ancestor_of, hands_on

TRIAL, FINAL = range(2)
"""What a seed is for: the training of a trial, or the final training of a model."""


def trial_request(
    context: RunContext, store: StudyStore, trial: PendingTrial, with_files: Iterable[Model] = ()
) -> Request:
    """Return the request of a trial.

    A trial with a role in the report has no limits: it is measured and trained in any case.

    Args:
        context: the run.
        store: the study, from which the trial's limits and its chances are learned.
        trial: what the study wants evaluated next.
        with_files: models whose weights the candidate may inherit.
    """
    options, limits, name = context.options, store.limits, trial_name(trial.number)
    most = Limits(math.inf) if trial.role else limits
    known = store.measured(trial.candidate, trial.role)
    ancestor = None if trial.role or not options.inherit else ancestor_of(trial.candidate, with_files)
    return Request(
        folder=f"trials/{name}",
        candidate=trial.candidate,
        epochs=_epochs(context, trial.candidate, trial.role, context.epochs),
        unchanged=trial.role == BASELINE,
        seed=seed_of(options.seed, name, TRIAL),
        stream=stream_for(context, name, TRIAL),
        ancestor=f"{ancestor.path}/{SHAPES}" if ancestor else "",
        target_ms=None if trial.role else limits.target_ms,
        max_size_bytes=most.max_size_bytes,
        max_memory_bytes=most.max_memory_bytes,
        max_energy_mj=most.max_energy_mj,
        also=limits.measured,
        known=known,
        latencies=tuple(each.latency for each in known),
        timeout_s=options.trial_timeout_s,
        promotion=_promotion(context, store, trial),
        attempt=trial.attempt,
    )


def final_request(context: RunContext, model: Model) -> Request:
    """Return the request of a model's final training; one whose training failed in its trial is only scored.

    It begins from the trial's own weights where they were kept, otherwise from those that the trial started from.
    """
    epochs = _epochs(context, model.candidate, model.role, context.final_epochs)
    return Request(
        folder=model.path,
        candidate=model.candidate,
        epochs=epochs if model.measurement.failure is None else 0.0,
        unchanged=model.role == BASELINE,
        seed=seed_of(context.options.seed, model.id, FINAL),
        stream=stream_for(context, model.id, FINAL),
        ancestor=f"trials/{model.id}/{SHAPES if hands_on(model) else ANCESTOR}",
        latencies=tuple(measured.latency for measured in model.measurements),
        test=True,
        timeout_s=10 * context.options.trial_timeout_s,
    )


def repeated_request(context: RunContext, model: Model, request: Request) -> Request:
    """Return a final request with the training of the model's trial: its start, its passes and its random numbers."""
    return replace(
        request,
        epochs=model.measurement.epochs,
        seed=seed_of(context.options.seed, model.id, TRIAL),
        stream=stream_for(context, model.id, TRIAL),
        ancestor=f"trials/{model.id}/{ANCESTOR}",
    )


def seed_of(study: int, trial: str, rung: int) -> int:
    """Return the seed of an evaluation; no two trainings of a study draw the same numbers.

    Args:
        study: the study's own seed.
        trial: the trial's id, its number in digits; those without a number, such as the baseline, share one seed.
        rung: `TRIAL` or `FINAL`.

    >>> seeds = {seed_of(0, trial, rung) for trial in ("baseline", "00003", "00004") for rung in (TRIAL, FINAL)}
    >>> len(seeds), seed_of(0, "00003", TRIAL) in seeds, seed_of(1, "00003", TRIAL) in seeds
    (6, True, False)
    """
    return int(np.random.SeedSequence((study, _number(trial), rung)).generate_state(1)[0])


def _number(trial: str) -> int:
    return int(trial) + 1 if trial.isdecimal() else 0


def stream_for(context: RunContext, trial: str, rung: int) -> Stream:
    """Return the study's training data, and where in them a training begins."""
    return stream_of(
        context.options.seed,
        _number(trial),
        epochs=context.epochs,
        final_epochs=context.final_epochs,
        final=rung == FINAL,
    )


def _epochs(context: RunContext, candidate: Candidate, role: str, epochs: float) -> float:
    """Return the passes of a training; 0 for a network that is neither compressed nor a student."""
    return epochs if candidate.compresses or (context.student and role != BASELINE) else 0.0


def _promotion(context: RunContext, store: StudyStore, trial: PendingTrial) -> Promotion | None:
    """Return the rule that decides whether a candidate is trained; None where each one is.

    With several deployments each has a front of its own, and every candidate is trained.
    """
    options = context.options
    if trial.role or not options.promote or options.deployments > 1:
        return None
    rng = np.random.default_rng([options.seed, trial.number])
    latest = store.found.latest(LATEST)
    unit = store.limits.told_by(model.measurement for model in latest).metric_unit
    rivals = (model.measurement for model in store.found.front())
    unchanged = next((m.measurement.scores for m in store.found.references() if m.id == BASELINE), "")
    return learned([model.measurement for model in latest], rivals, rng, unit=unit, unchanged=unchanged)
